"""The paper's masked multi-modal model with 32 experts on 64 chips, at BEiT-3's batch.

mhmoe plan --config configs/pod/multimodal.py --topology v5p:4x4x4
mhmoe train --config configs/pod/multimodal.py --workdir gs://BUCKET/multimodal

On v5p 39.8 of 95.74 GiB a chip; at peak rates 193 ms of computation and 16 ms of
communication a step of 1,462,272 tokens, so 28.2 to 30.5 % MFU at most. All kinds of a
batch go through a layer together, so that its gradients are exchanged once.
"""

from configs.paper1 import multimodal


def get_config():
  """The paper's model and recipe; 2,048 examples of each kind a step (2208.10442)."""
  config = multimodal.get_config("mhmoe_32")
  config.train.batch_size = 2_048
  config.mesh.data = 8
  config.mesh.expert = 8
  config.mesh.fsdp = True
  config.model.remat = "norms"
  config.model.moe.dispatch = "capacity"
  return config
