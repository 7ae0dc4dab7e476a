"""Every setting with its default: the only home of defaults.

A config file starts from `get_config()` and assigns existing keys; a key that is not
here is an error. On the command line, `--config.model.embed_dim=256` does the same.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The defaults: a small MH-MoE decoder on the bundled corpus."""
  config = ConfigDict()
  config.task = "language"  # what the model learns: the next token of a text
  config.init = ""  # folder of a run whose parameters this one starts from

  config.model = model = ConfigDict()
  model.vocab_size = 264  # rows of the embedding, at least those of the vocabulary
  model.num_layers = 4
  model.embed_dim = 128
  model.num_attention_heads = 4
  model.num_kv_heads = 0  # of keys and values, shared by groups; 0: one for each query
  model.head_dim = 0  # width of an attention head; 0: embed_dim / num_attention_heads
  model.qk_norm = (
    "none"  # norm of queries and keys: of each "head", or the "whole" width
  )
  model.ffn = "mhmoe"  # "dense", "smoe" (one head, no linear layers) or "mhmoe"
  model.ffn_dim = 512  # hidden width of the dense FFNs
  model.moe_every = 2  # every n-th block has the MoE layer, the others are dense
  # "gelu", with the error function, or "gelu_tanh", its approximation: two matrices;
  # "swiglu": three.
  model.activation = "gelu"
  model.use_bias = False
  model.gate_bias = True  # under use_bias, SwiGLU's gate has a bias, too
  model.norm = "rmsnorm"  # or "layernorm"
  model.norm_epsilon = 1e-6  # what norms add to the variance
  model.sub_ln = False  # Magneto's norms inside attention and FFNs
  model.ffn_norm = model.get_oneway_ref("norm")  # the one inside FFNs
  model.ffn_norm_epsilon = model.get_oneway_ref("norm_epsilon")
  # How biases and the router's linear map start: "torch", uniform as in `nn.Linear`, or
  # "flax", zeros and lecun_normal. Other matrices start as in the papers' code.
  model.init = "flax"
  model.bitnet = False  # ternary weights, 8-bit activations (2402.17764)
  model.rope_theta = 10_000.0  # base of the rotary positions
  model.scale_embeddings = True  # times sqrt(embed_dim)
  model.tie_embeddings = True
  model.dropout = 0.0  # of the embeddings, and of what attention and FFNs return
  model.moe_dropout = model.get_oneway_ref("dropout")  # of what MoE layers return
  model.dtype = "float32"  # of activations; "bfloat16" on accelerators
  # What the backward pass computes again, for memory: "none"; "norms" and all else that
  # multiplies no matrices; "projections" too, not attention and experts; or "blocks".
  model.remat = "none"
  model.scan_unroll = (
    1  # periods of blocks compiled in one piece: faster, more to compile
  )

  model.moe = moe = ConfigDict()
  moe.num_heads = 4  # sub-tokens per token; must divide embed_dim
  moe.num_experts = 8  # one pool shared by all heads
  moe.expert_dim = 512  # hidden width of an expert
  moe.top_k = 2  # experts per sub-token
  moe.num_linear = 1  # layers of the head and of the merge layer; 0 is identity
  moe.use_head_layer = True  # False: only the merge layer, 2411.16205 Table 5
  moe.use_merge_layer = True  # False: only the head layer
  moe.shared_dim = 0  # hidden width of the expert that every token uses; 0: none
  moe.activation = model.get_ref("activation")
  moe.use_bias = model.get_ref("use_bias")
  moe.gate_bias = model.get_ref("gate_bias")
  moe.linear_bias = False  # in head and merge layer, even without use_bias
  moe.sub_ln = model.get_ref("sub_ln")
  moe.ffn_norm = model.get_ref("ffn_norm")
  moe.ffn_norm_epsilon = model.get_ref("ffn_norm_epsilon")
  moe.bitnet = model.get_ref("bitnet")
  moe.init = model.get_ref("init")
  moe.expert_dropout = 0.0  # of what each expert returns, before its weight
  moe.residual = False  # add the sub-token to its experts' sum, 2404.15045 Eq. 6
  moe.router = "linear"  # "linear" (Eq. 5), "cosine" (X-MoE), "projected" (torchscale)
  moe.router_dim = 16  # width of the cosine and projected routers
  moe.router_norm = 1.5  # what the projected router's embeddings are kept at; 0: free
  moe.router_temperature = 0.3  # of the cosine router, at the start
  moe.renormalize = False  # make the weights of a sub-token's experts sum to 1
  # "sorted" (a ring over devices) and "rounds" (as many all-to-alls as it takes) drop
  # nothing; "capacity" (all-to-all) and "einsum" (masks, the definition) have slots.
  moe.dispatch = "sorted"
  moe.backend = "auto"  # of the first two: by platform, or see `grouped.py`
  moe.capacity_factor = 1.25  # of "capacity" and "einsum" in training
  moe.eval_capacity_factor = 2.0  # of the same in evaluation
  moe.round_factor = 1.25  # of "rounds": what a pair of devices sends, in even shares

  config.data = data = ConfigDict()
  data.source = "bundled"  # or "text", "jsonl", "tfds"
  data.name = ""  # of the TFDS set, such as "lm1b"
  data.train = ""  # files or patterns, comma-separated, local or gs://; a TFDS split
  data.valid = ""
  data.text_key = "text"  # the field of a JSONL or TFDS record
  # Several texts, such as languages: config.data.mixture = {"de": {"train": "de.txt",
  # "valid": "de_valid.txt"}, ...}, with source, name and text_key where they differ.
  data.mixture = ConfigDict()
  data.mixture_exponent = 0.3  # 1: as often as they are large; 0: all alike
  # "bytes", "cl100k" (tiktoken's), a SentencePiece model's path, "xlmr:PATH", "hf:DIR"
  data.vocabulary = "bytes"
  data.prepared = ""  # folder of `mhmoe prepare`: read in place of the text
  data.sequence_length = 256
  data.shuffle_buffer = 1_000  # sequences, in each stream
  data.streams = 1  # readers that share the text; a multiple of the processes, for good
  data.seed = 0

  config.objective = objective = ConfigDict()
  objective.balance_weight = 0.01  # 2404.15045 Table 10, summed over MoE layers
  objective.router_z_weight = 0.0

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 1e-3  # at the end of the warm-up
  optimizer.schedule = "cosine"  # or "linear", "constant"
  optimizer.warmup_steps = 100
  optimizer.final_fraction = 0.1  # of learning_rate, at the last step
  optimizer.weight_decay = 0.1  # on matrices and embeddings only
  optimizer.b1 = 0.9
  optimizer.b2 = 0.98
  optimizer.eps = 1e-6
  optimizer.clip_norm = 1.0
  optimizer.layer_decay = 1.0  # of the learning rate, from each block to the one below
  # Of modules, times the learning rate, such as {"router": 0.5, "merge": 2.0}; on the
  # command line --config.optimizer.rates="{'router': 0.5}".
  optimizer.rates = ConfigDict()

  config.mesh = mesh = ConfigDict()
  mesh.replica = 1  # slices, over the data-centre network
  mesh.data = -1  # what the other axes leave
  mesh.expert = 1  # devices that share the experts
  mesh.model = 1  # devices that share hidden widths and attention heads
  mesh.fsdp = False  # split parameters over `data` too

  config.train = train = ConfigDict()
  train.seed = 0
  train.num_steps = 1_000
  train.batch_size = 32  # sequences per step, over all devices
  train.accumulate_steps = 1  # parts that a batch is computed in
  train.log_every = 10
  train.eval_every = 200
  train.eval_batches = 0  # 0: the whole validation split
  train.checkpoint_every = 200
  train.keep_last = 2  # the best is kept besides
  train.profile_steps = 0  # profile so many steps after the first ten, for TensorBoard
  train.image_every = 100  # steps between pictures of the routing there; 0: none
  # Steps between scores on tasks of lm-evaluation-harness; 0: none. Needs the extra
  # "eval", and a folder with a JSONL file for each task, or else the network.
  train.harness_every = 0
  train.harness_tasks = "mhmoe_paper1"  # names with commas between them
  train.harness_data = ""
  train.harness_limit = 0  # records of each task; 0: all
  return config.lock()
