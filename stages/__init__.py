"""The seven stages of the pipeline, in reading order: download, stats, lr_find, train, evaluate, misclassified, gradcam."""
