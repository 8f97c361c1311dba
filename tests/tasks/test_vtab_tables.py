"""The table of VTAB-1K against the figures of its papers."""

from peftbench.tasks import vtab_tables as tables

CLASSES = [100, 102, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9]


def test_nineteen_tasks_in_three_groups():
    assert [row.classes for row in tables.TABLE.values()] == CLASSES
    assert [len(tables.group(name)) for name in tables.GROUPS] == [7, 4, 8]
    assert {name for g in tables.GROUPS for name in tables.group(g)} == set(tables.TABLE)
    assert len({row.folder for row in tables.TABLE.values()}) == 19


def test_counts_of_the_lists():
    counts = tables.TABLE["dtd"].counts()
    assert counts == {"train": 800, "val": 200, "trainval": 1000, "test": 1880}
    assert set(tables.LISTS) == set(tables.TABLE["dtd"].counts())
    # half of smallNORB's 24,300 test images, a tenth of dSprites' 737,280
    assert tables.TABLE["smallnorb_azi"].test == 24_300 // 2
    assert tables.TABLE["dsprites_ori"].test == 737_280 // 10
    assert sum(row.test for row in tables.TABLE.values()) == 387_904
