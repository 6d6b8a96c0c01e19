"""Backbones: images to maps at strides 4, 8, 16, 32, under the tensor names of the public checkpoints."""
