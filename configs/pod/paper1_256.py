"""2404.15045's largest model, 256 experts and 7.4B parameters, on 64 chips.

  mhmoe plan --config configs/pod/paper1_256.py --topology v5p:4x4x4
  mhmoe plan --config configs/pod/paper1_256.py --topology v6e:8x8
  mhmoe train --config configs/pod/paper1_256.py --workdir gs://BUCKET/paper1_256

At peak rates, for a step of 524,288 tokens: on v5p 4.8 of 95.7 GiB a chip, 146 ms of
computation and 54 ms of communication, MFU at most 21.5 to 29.6 %; on v6e 4.8 of 31.25
GiB, 233 ms and 82 ms, at most 6.9 to 9.3 %.

dispatch="capacity" with the authors' factor of 1.0 drops choices, as their code does.
The dropless "sorted" also fits v6e (24.6 GiB), but its experts, 12,162 wide under a
norm, do not fit the fused kernel, and the compiler multiplies every row with every
expert for the weights' gradients: 1.0e15 FLOPs a chip instead of 2.5e13.
"""

from configs.paper1 import english


def get_config():
  """The paper's model with the logged recipe; only what the chips need is set."""
  config = english.get_config("mhmoe_256,logged")
  config.model.remat = "blocks"
  config.model.moe.dispatch = "capacity"
  config.mesh.data = 8
  config.mesh.expert = 8
  config.mesh.fsdp = True
  config.train.accumulate_steps = 4
  return config
