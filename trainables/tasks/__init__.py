"""Tasks: what a model answers about an image, and all that follows from it. `base` says what a task is.

    classification.ONE_LABEL      an image is of one class
    classification.MANY_LABELS    an image has any number of labels
    segmentation.SEGMENTATION     each pixel is of one class

The labels of a data set determine its task (`trainables.data.task_of`). Everything else takes a task and asks it: no other file
has cases for kinds of labels, but for the listing that reads them (`trainables.data.listing`).

Importing this package does not import torch, so that stored answers can be measured without it (`quality`).
"""
