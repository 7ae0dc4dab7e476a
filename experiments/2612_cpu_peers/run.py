"""A small decoder on a CPU beside Hugging Face transformers' Mixtral of equal sizes.

  PYTHONPATH=. python experiments/2612_cpu_peers/run.py

Whole training steps (forward, backward, AdamW) and decoding, each in a process of its
own, taking turns, so that what else the machine does hits all alike. The MH-MoE has the
work and the parameters of the SMoE. Weights and tokens are random.
"""

import argparse
from collections.abc import Callable
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import numpy as np

from configs import base
from mhmoe_jax import allocator
from mhmoe_jax.models.decoding import generate, unstack
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching
from mhmoe_jax.train.config import RunConfig, resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state
from mhmoe_jax.train.step import make_train_step

WIDTH, HIDDEN, LAYERS, TOP_K, VOCABULARY, ATTENTION_HEADS = 256, 512, 4, 2, 8192, 4
ROWS, LENGTH = 8, 256  # of a training batch
PROMPT, NEW = 8, 100  # tokens
TRAINED, DECODED = (8, 32, 128), (8, 64, 256)  # experts
RESULTS = pathlib.Path(__file__).parent / "results"
Program = Callable[[], object]


def ours(num_experts: int, heads: int = 1) -> RunConfig:
  """The decoder of ours: an SMoE, or with more heads an MH-MoE of equal work."""
  config = base.get_config()
  config.data.vocabulary, config.model.vocab_size = "bytes", VOCABULARY
  config.data.sequence_length, config.train.batch_size = LENGTH, ROWS
  smoe = MoeConfig(
    num_heads=1, num_linear=0, num_experts=num_experts, expert_dim=HIDDEN, top_k=TOP_K
  )
  smoe = dataclasses.replace(smoe, activation="swiglu", use_bias=False)
  layer = smoe
  if heads > 1:
    layer = dataclasses.replace(smoe, num_heads=heads, num_linear=1)
    width = matching.match_expert_dim(layer, smoe, WIDTH, matching.macs)
    layer = dataclasses.replace(layer, expert_dim=width)
    number = matching.match_num_experts(layer, smoe, WIDTH)
    layer = dataclasses.replace(layer, num_experts=number)
  model = config.model
  model.update(
    num_layers=LAYERS,
    embed_dim=WIDTH,
    num_attention_heads=ATTENTION_HEADS,
    ffn="mhmoe" if heads > 1 else "smoe",
    moe_every=1,
    activation="swiglu",
    use_bias=False,
    tie_embeddings=True,
  )
  chosen = ("num_heads", "num_linear", "num_experts", "expert_dim", "top_k")
  model.moe.update({name: getattr(layer, name) for name in chosen})
  return resolve(config)


def theirs(num_experts: int):
  """transformers' decoder of the same sizes."""
  import torch
  from transformers import MixtralConfig, MixtralForCausalLM

  torch.manual_seed(0)
  config = MixtralConfig(
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=ATTENTION_HEADS,
    num_key_value_heads=ATTENTION_HEADS,
    num_local_experts=num_experts,
    num_experts_per_tok=TOP_K,
    vocab_size=VOCABULARY,
    tie_word_embeddings=True,
    output_router_logits=True,
  )
  return MixtralForCausalLM(config)


def our_step(cfg: RunConfig, tokens_BL: np.ndarray) -> Program:
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  step = jax.jit(make_train_step(cfg.task, optimizer, 1), donate_argnums=0)
  batch = {
    "inputs": tokens_BL[:, :-1],
    "targets": tokens_BL[:, 1:],
    "weights": np.ones((ROWS, LENGTH), np.float32),
    "segments": np.ones((ROWS, LENGTH), np.int32),
    "positions": np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
  }

  def program():
    nonlocal state
    state, metrics = step(state, batch)
    return float(metrics["loss"])

  return program


def their_step(num_experts: int, implementation: str, tokens_BL: np.ndarray) -> Program:
  import torch

  model = theirs(num_experts).train()
  model.set_experts_implementation(implementation)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
  tokens = torch.from_numpy(tokens_BL).long()

  def program():
    optimizer.zero_grad()
    loss = model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss)

  return program


def our_decoding(cfg: RunConfig, prompt_BL: np.ndarray) -> Program:
  init = jax.jit(lambda key: unstack(cfg.task.init(key), cfg.model))
  params, key = init(jax.random.key(0)), jax.random.key(1)

  def program():
    made = generate(cfg.model, params, prompt_BL, key, num_tokens=NEW, temperature=0.0)
    return np.asarray(made)

  return program


def their_decoding(
  num_experts: int, implementation: str, prompt_BL: np.ndarray
) -> Program:
  import torch
  from transformers import GenerationConfig

  model = theirs(num_experts).eval()
  model.set_experts_implementation(implementation)
  prompt = torch.from_numpy(prompt_BL).long()
  how = GenerationConfig(
    max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
  )

  def program():
    mask = torch.ones_like(prompt)
    with torch.inference_mode():
      made = model.generate(prompt, attention_mask=mask, generation_config=how)
    return made.numpy()

  return program


def make(what: str, name: str, num_experts: int, size: int) -> Program:
  """The program of a worker."""
  random = np.random.default_rng(0)
  length = LENGTH + 1 if what == "step" else PROMPT
  tokens_BL = random.integers(3, VOCABULARY, (size, length), np.int32)
  kind, _, how = name.partition(" ")
  if kind == "transformers":
    their = their_step if what == "step" else their_decoding
    return their(num_experts, how, tokens_BL)
  cfg = ours(num_experts, heads=4 if kind == "mhmoe" else 1)
  return (our_step if what == "step" else our_decoding)(cfg, tokens_BL)


def work(*args) -> None:
  """Runs a program once for every line that comes, and answers with its seconds."""
  allocator.keep_freed_memory()
  program = make(*args)
  program()
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    program()
    print(time.perf_counter() - start, flush=True)


def take_turns(
  names: list[str], turns: int, *args: str | int
) -> dict[str, list[float]]:
  """Seconds of each program in every turn; each has a process of its own.

  In one process, threads of torch that wait for work slow down what is not torch's.
  """
  with contextlib.ExitStack() as stack:
    workers = {}
    what, *rest = map(str, args)
    for name in names:
      command = [sys.executable, __file__, "--work", what, name, *rest]
      worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
      )
      workers[name] = stack.enter_context(worker)
      assert worker.stdout.readline() == "ready\n"
    times = {name: [] for name in names}
    for _ in range(turns):
      for name, worker in workers.items():
        worker.stdin.write("go\n")
        worker.stdin.flush()
        times[name].append(float(worker.stdout.readline()))
    for worker in workers.values():
      worker.stdin.close()
  return times


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--work", nargs=4, help="what, name, experts, sequences")
  args = parser.parse_args()
  if args.work:
    what, name, num_experts, size = args.work
    work(what, name, int(num_experts), int(size))
    return
  RESULTS.mkdir(exist_ok=True)
  steps = ["smoe", "mhmoe", "transformers eager", "transformers grouped_mm"]
  rows = [("step", num_experts, ROWS, steps) for num_experts in TRAINED]
  names = [name for name in steps if name != "mhmoe"]
  rows += [("decoding", n, size, names) for size in (1, 16) for n in DECODED]
  with (RESULTS / "cpu.jsonl").open("w") as file:
    for what, num_experts, size, names in rows:
      times = take_turns(names, args.turns, what, num_experts, size)
      row = {"what": what, "experts": num_experts, "sequences": size, "seconds": times}
      print(json.dumps(row), file=file, flush=True)
      told = (f"{n} {1000 * statistics.median(t):.0f}" for n, t in times.items())
      where = f"{what}, {num_experts} experts, {size} sequences, ms"
      print(f"{where}: {'  '.join(told)}", flush=True)


if __name__ == "__main__":
  main()
