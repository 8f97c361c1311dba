"""Numbers that each method adds, from its paper and the dimensions of the tiny networks.

Written from the papers' formulas, not from the code: D width, L blocks, F feed-forward width,
H attention width, K key and value width.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Dimensions of a network; an encoder-decoder counts both stacks in ``blocks``.

    Attributes:
        cross: blocks with cross-attention.
        biased: whether linear layers have biases.
        norm_numbers: numbers per norm, as a multiple of D (gain and bias, or gain only).
        norms: norms in all.
        patch: numbers of a patch and of the embedding's output, where patches are embedded.
        gates: whether the feed-forward part has a gate beside ``up``.
        parameters: all parameters, tied ones once, of what a use of the network computes.

    """

    d: int
    f: int
    h: int
    k: int
    blocks: int
    first_stack: int
    cross: int
    biased: bool
    fused: bool
    norms: int
    norm_numbers: int
    patch: bool
    gates: bool
    parameters: int

    @property
    def attentions(self):
        return self.blocks + self.cross

    @property
    def attention_outputs(self):
        return self.h + 2 * self.k + self.d

    @property
    def feed_outputs(self):
        return self.f * (2 if self.gates else 1) + self.d


def _vit(d=32, n=2, f=128, image=32, patch=8):
    tokens = (image // patch) ** 2 + 1
    embed = d + tokens * d + (3 * patch * patch + 1) * d
    block = 2 * 2 * d + (d + 1) * 3 * d + (d + 1) * d + (d + 1) * f + (f + 1) * d
    return Shape(
        d, f, d, d, n, n, 0, True, True, 2 * n + 1, 2, True, False, embed + n * block + 2 * d
    )


def _bert(types, d=32, n=2, f=64, words=64, places=64):
    embed = (words + places + types) * d + 2 * d
    block = 4 * (d + 1) * d + (d + 1) * f + (f + 1) * d + 4 * d
    return Shape(d, f, d, d, n, n, 0, True, False, 2 * n + 1, 2, False, False, embed + n * block)


def _t5(decoder, d=32, n=2, f=64, words=64, heads=4, buckets=32, tied=True):
    encoder = n * (4 * d * d + 3 * d * f + 2 * d) + d + buckets * heads
    if not decoder:
        total = encoder + words * d
        return Shape(d, f, d, d, n, n, 0, False, False, 2 * n + 1, 1, False, True, total)
    more = n * (8 * d * d + 3 * d * f + 3 * d) + d + buckets * heads
    total = encoder + more + words * d * (1 if tied else 2)
    return Shape(d, f, d, d, 2 * n, n, n, False, False, 5 * n + 2, 1, False, True, total)


def _llama(head, d=32, n=2, f=64, words=64, k=16):
    block = 2 * d * d + 2 * d * k + 3 * d * f + 2 * d
    total = words * d * (2 if head else 1) + n * block + d
    return Shape(d, f, d, k, n, n, 0, False, False, 2 * n + 1, 1, False, True, total)


def shapes(t5_tied):
    """Return the dimensions of every use."""
    return {
        "vit": _vit(),
        "bert": _bert(types=2),
        "roberta": _bert(types=2),
        "t5": _t5(decoder=True, tied=t5_tied),
        "t5_classifier": _t5(decoder=False),
        "llama": _llama(head=True),
        "llama_classifier": _llama(head=False),
        "captioner": _llama(head=True),
    }


def lora(s, r=8):
    """Rank r on q and v: A is (r, D), B is (out, r)."""
    return s.attentions * r * (s.d + s.h + s.d + s.k)


def dora(s, r=8):
    """LoRA and one magnitude per output."""
    return lora(s, r) + s.attentions * (s.h + s.k)


def ia3(s):
    """One scale per key, value and feed-forward channel."""
    return s.attentions * 2 * s.k + s.blocks * s.f


def bottleneck(s, h):
    """W_down, b_down, W_up, b_up."""
    return 2 * s.d * h + h + s.d


def linear_outputs(s):
    """Output channels of all linear layers."""
    return s.attentions * s.attention_outputs + s.blocks * s.feed_outputs


def bitfit(s):
    """One number per output channel of each linear layer, and of each norm that has a bias."""
    norm_biases = s.norms * s.d if s.norm_numbers == 2 else 0
    return linear_outputs(s) + norm_biases + (s.d if s.patch else 0)


def ssf(s):
    """Scale and shift on each output of a linear layer, a norm, and the patch embedding."""
    return 2 * (linear_outputs(s) + s.norms * s.d + (s.d if s.patch else 0))


def sift(s, rate=0.008):
    """floor(rate n) + 1 entries of every weight and bias of attention (arXiv 2312.11875)."""
    rows = [s.h + 2 * s.k] if s.fused else [s.h, s.k, s.k]
    shapes = [*((r, s.d) for r in rows), (s.d, s.h)]
    weights = sum(int(rate * o * i) + 1 for o, i in shapes)
    return s.attentions * (weights + s.biased * sum(int(rate * o) + 1 for o, _ in shapes))


def fact_tiles(s):
    """D x D tiles of all weights; a narrower layer is one tile."""
    return s.attentions * 4 + s.blocks * (3 if s.gates else 2) * (s.f // s.d)


def fact_tt(s, r=16):
    """U and V, and a core of every tile (arXiv 2212.03145)."""
    return 2 * s.d * r + fact_tiles(s) * r * r


def fact_tk(s, r=32):
    """U and V, one cube, and a mixture of its slices for every tile."""
    return 2 * s.d * r + r**3 + fact_tiles(s) * r


def repadapter(s, h=8, groups=2):
    """A and its bias, grouped B and its bias, twice a block (arXiv 2302.08106)."""
    return 2 * s.blocks * (s.d * h + h + s.d * h // groups + s.d)


def convpass(s, h=8):
    """Down, 3x3 kernel and up with their biases, twice a block (arXiv 2207.07039)."""
    return 2 * s.blocks * (s.d * h + h + 9 * h * h + h + h * s.d + s.d)


def compacter(s, h=24, n=4):
    """n shared n x n matrices; two pairs of n rank-one factors and biases, twice a block."""
    return n**3 + 2 * s.blocks * (2 * (s.d + h) + h + s.d)


def context(s, r=8):
    """LoRA of rank r at every linear layer, once per context (arXiv 2312.08900).

    Where a decoder writes, its layers have one context; its cross-attention reads the encoder's.
    """
    inputs = s.d * (1 if s.fused else 3) + s.h  # q, k, v and o
    attention = r * (inputs + s.attention_outputs)
    feed = r * (s.d * (2 if s.gates else 1) + s.f + s.feed_outputs)
    if not s.cross:
        return 2 * s.blocks * (attention + feed)
    read = s.cross * r * 2 * (s.d + s.k)
    return (2 * (s.blocks - s.cross) + s.cross) * (attention + feed) + s.cross * attention + read


U_OPERATIONS = ("mha", "ffn", "block")


def u_tuners(s, adapters=(), prefixes=(), prompts=()):
    """Numbers of one block's U-Tuners, each with a scale per channel (section 6)."""
    found = sum(bottleneck(s, h) + s.d for h in adapters)
    found += sum(2 * rows * s.k + s.d for rows in prefixes)
    return found + sum(rows * s.d + s.d for rows in prompts)


def combo(s):
    """LoRA of 8 on q and v, and an adapter of 8 behind every MLP."""
    return lora(s) + s.blocks * bottleneck(s, 8)


def mam(s):
    """A prefix of 30 rows, and an adapter of 512 beside every MLP."""
    return s.attentions * 2 * 30 * s.k + s.blocks * bottleneck(s, 512)


def noah(s):
    """LoRA of 8 on a fused qkv or on each of q, k, v; adapter of 8; 8 prompts in every block."""
    ranks = s.h + 2 * s.k + s.d * (1 if s.fused else 3)
    return s.attentions * 8 * ranks + s.blocks * bottleneck(s, 8) + s.first_stack * 8 * s.d


def side(s, r=8):
    """Side network of LST: widths divided by r, T5's over both stacks; maps between are biased."""
    w, f, h, k = s.d // r, s.f // r, s.h // r, s.k // r
    biased, norm = int(s.biased), s.norm_numbers * w
    attention = (h + 2 * k) * (w + biased) + w * (h + biased) + norm
    feed = f * (w + biased) * (2 if s.gates else 1) + w * (f + biased) + norm
    rung = s.d * w + w + 1
    blocks = s.blocks * (attention + feed + rung) + s.cross * attention
    stacks = s.blocks // s.first_stack
    return blocks + stacks * (s.d * w + w + norm) + w * s.d + s.d


WORDS = 4  # tokens of the description that tests bind a method to


def pemt_source(s, r=64):
    """A and B of rank 64 at the second feed-forward matrix, and a prompt (arXiv 2402.15082)."""
    return s.blocks * r * (s.f + s.d) + WORDS * s.d


def pemt(s, sources=2, reduction=16):
    """Target adapters, gates, norms and a prompt; a decoder's gates read the encoder's output."""
    hidden = s.d // reduction
    gates = sources * ((s.blocks - s.cross) * s.f + s.cross * s.d)
    return s.blocks * bottleneck(s, hidden) + gates + s.norms * s.norm_numbers * s.d + WORDS * s.d


FORMULAS = {
    "full": lambda s: s.parameters,
    "linear": lambda s: 0,
    "bitfit": bitfit,
    "layernorm": lambda s: s.norms * s.norm_numbers * s.d,
    "lora": lora,
    "dora": dora,
    "context": context,
    "ia3": ia3,
    "adapter": lambda s: s.blocks * bottleneck(s, 8),
    "adapter_shared": lambda s: s.blocks * bottleneck(s, 4),
    "adapter_plus": lambda s: s.blocks * (bottleneck(s, 8) + s.d),
    "combo": combo,
    "lst": side,
    "sift": sift,
    "mam": mam,
    "noah_all": noah,
    "adaptformer": lambda s: s.blocks * bottleneck(s, 8),
    "prefix": lambda s: s.attentions * 2 * 10 * s.k,
    "vpt_shallow": lambda s: 10 * s.d,
    "prompt_tuning": lambda s: 100 * s.d,
    "spot": lambda s: 100 * s.d,
    "attempt": lambda s: 100 * s.d + 2 * 100 * s.d + 2 * s.d,
    "pemt_source": pemt_source,
    "pemt": pemt,
    "vpt_deep": lambda s: s.first_stack * 10 * s.d,
    "ssf": ssf,
    "gist": lambda s: s.blocks * bottleneck(s, 4) + s.d,
    "fact_tt": fact_tt,
    "fact_tk": fact_tk,
    "repadapter": repadapter,
    "convpass": convpass,
    "compacter": compacter,
    **{f"u_adapter_{op}": lambda s: s.blocks * u_tuners(s, [10]) for op in U_OPERATIONS},
    **{f"u_prefix_{op}": lambda s: s.blocks * u_tuners(s, (), [10]) for op in U_OPERATIONS},
    **{f"u_prompt_{op}": lambda s: s.blocks * u_tuners(s, (), (), [10]) for op in U_OPERATIONS},
    "u_tuning": lambda s: s.blocks * u_tuners(s, [13, 13]),
    "u_tuning_tri": lambda s: s.blocks * u_tuners(s, [13, 13], [4]),
    "u_tuning_first": lambda s: u_tuners(s, [13, 13]),
}
