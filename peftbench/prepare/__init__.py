"""Building published data layouts from the archives of the data sets' authors.

No TensorFlow is needed: the formats are read here, and the order in which TensorFlow Datasets
stores examples, which decides the 1,000 images of a VTAB-1K task, is computed (:mod:`.order`).
"""
