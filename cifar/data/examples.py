"""What training does to images, for people to look at: the first batch before and after augmentation."""

import numpy as np
import torch

from cifar.data.policy import Policy, augment_batch
from cifar.data.splits import Split, epoch_batches


def first_augmented(training: Split, policy: Policy, batch_size: int, seed: int) -> tuple[Split, np.ndarray]:
    """The first batch of the first epoch, and its images uint8 (N, H, W, 3) after augmentation."""
    first_batch = epoch_batches(len(training.labels), batch_size, seed, epoch=0)[0]
    originals = Split(training.images[first_batch], training.labels[first_batch])
    augmented = augment_batch(policy, torch.from_numpy(originals.images), first_batch, (seed, 0, 0))
    return originals, augmented.numpy()
