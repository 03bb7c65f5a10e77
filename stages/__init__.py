"""The stages in reading order: download, stats, lr_find, train, evaluate, misclassified, gradcam, export, report."""
