"""The layout of every parameter of a pod config, as a table that a change must face."""

import jax
from jax.sharding import AbstractMesh

from configs.pod import paper1_256
from mhmoe_jax import sharding
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve

# Parameter, and the mesh axis of each of its dimensions; - is whole.
GOLDEN = """
embed_VD                                     - data
final_norm/bias_D                            -
final_norm/scale_D                           -
layers/block_0/attention/b_k_AQ              - model -
layers/block_0/attention/b_o_D               - -
layers/block_0/attention/b_q_AQ              - model -
layers/block_0/attention/b_v_AQ              - model -
layers/block_0/attention/inner_norm/bias_D   - -
layers/block_0/attention/inner_norm/scale_D  - -
layers/block_0/attention/w_k_DAQ             - data model -
layers/block_0/attention/w_o_AQD             - model - data
layers/block_0/attention/w_q_DAQ             - data model -
layers/block_0/attention/w_v_DAQ             - data model -
layers/block_0/attention_norm/bias_D         - -
layers/block_0/attention_norm/scale_D        - -
layers/block_0/ffn/b_in_F                    - model
layers/block_0/ffn/b_out_D                   - -
layers/block_0/ffn/norm_bias_F               - model
layers/block_0/ffn/norm_scale_F              - model
layers/block_0/ffn/w_in_DF                   - data model
layers/block_0/ffn/w_out_FD                  - model data
layers/block_0/ffn_norm/bias_D               - -
layers/block_0/ffn_norm/scale_D              - -
layers/block_1/attention/b_k_AQ              - model -
layers/block_1/attention/b_o_D               - -
layers/block_1/attention/b_q_AQ              - model -
layers/block_1/attention/b_v_AQ              - model -
layers/block_1/attention/inner_norm/bias_D   - -
layers/block_1/attention/inner_norm/scale_D  - -
layers/block_1/attention/w_k_DAQ             - data model -
layers/block_1/attention/w_o_AQD             - model - data
layers/block_1/attention/w_q_DAQ             - data model -
layers/block_1/attention/w_v_DAQ             - data model -
layers/block_1/attention_norm/bias_D         - -
layers/block_1/attention_norm/scale_D        - -
layers/block_1/ffn_norm/bias_D               - -
layers/block_1/ffn_norm/scale_D              - -
layers/block_1/moe/experts/b_in_EF           - expert model
layers/block_1/moe/experts/b_out_EM          - expert -
layers/block_1/moe/experts/norm_bias_EF      - expert model
layers/block_1/moe/experts/norm_scale_EF     - expert model
layers/block_1/moe/experts/w_in_EMF          - expert data model
layers/block_1/moe/experts/w_out_EFM         - expert model data
layers/block_1/moe/head/b_0_P                - -
layers/block_1/moe/head/w_0_DP               - data -
layers/block_1/moe/merge/b_0_P               - -
layers/block_1/moe/merge/w_0_DP              - data -
layers/block_1/moe/router/embed_ER           - expert -
layers/block_1/moe/router/w_MR               - data -
"""


def test_parameters_of_a_pod_config():
  cfg = resolve(paper1_256.get_config())
  sizes = (cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model)
  mesh = AbstractMesh(sizes, sharding.MESH_AXES)
  shapes = jax.eval_shape(lambda: init_params(cfg.model, jax.random.key(0)))
  layout = sharding.tree_shardings(shapes, mesh, sharding.FSDP)
  found = {
    "/".join(key.key for key in path): tuple(sharding.spec)
    for path, sharding in jax.tree_util.tree_leaves_with_path(layout)
  }
  golden = dict(line.split(maxsplit=1) for line in GOLDEN.strip().splitlines())
  assert {k: " ".join(a or "-" for a in spec) for k, spec in found.items()} == golden
