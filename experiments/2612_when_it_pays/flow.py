"""Variances and gradient norms over training: flow.py --runs RUNS --data DIR

RUNS is what run.py made. Measures the main table's models of seed 0 as they were
initialised and at every checkpoint, on one batch of the validation text, as means over
the MoE layers:

  into      mean square of what enters the MoE layer
  head      of what leaves the head layer (of what enters the layer, without one)
  experts   of the weighted sum of a sub-token's experts
  out       of what leaves the layer, before it is added to the residual stream
  logits    variance over the experts of the router's logits, mean over sub-tokens
  gradient  of the loss, Euclidean norm over a group of parameters
  ratio     of that to the norm of the parameters themselves

OUT/results gets runs.jsonl, flow.md and flow.png. Start it again when more models are
finished.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
import functools
import math
import pathlib
import statistics

import config as rows
from flax import linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from ml_collections import ConfigDict
import run

from mhmoe_jax.checkpoints.restore import load_model
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.task import Batch, Params
from mhmoe_jax.train.config import RunConfig

GROUPS = ("head", "router", "experts", "merge", "attention")
PLACES = ("into", "head", "experts", "out")
DRAWN = (*run.BASE, "split", "merge")


def flow_forward(cfg: RunConfig, params: Params, batch: Batch) -> dict[str, float]:
  """Mean squares on the way through an MoE layer."""
  seen = defaultdict(list)

  def note(name, x_in, x_out):
    seen[f"{name}/in"].append(float(x_in))
    seen[f"{name}/out"].append(float(x_out))

  def watch(call, args, kwargs, context):
    y = call(*args, **kwargs)
    name = context.module.name
    if context.method_name == "__call__" and name in ("moe", "head", "router", "merge"):
      out = y[0] if name == "moe" else y
      spread = jnp.var(out, axis=-1) if name == "router" else out**2
      jax.debug.callback(
        functools.partial(note, name), (args[0] ** 2).mean(), spread.mean()
      )
    return y

  with nn.intercept_methods(watch):
    Decoder(cfg.model).apply(
      {"params": params}, batch["inputs"], batch["positions"], batch["segments"]
    )
  jax.effects_barrier()
  mean = {name: statistics.fmean(values) for name, values in seen.items()}
  return {
    "into": mean["moe/in"],
    "head": mean["router/in"],
    "experts": mean.get("merge/in", mean["moe/out"]),
    "out": mean["moe/out"],
    "logits": mean["router/out"],
  }


def flow_backward(cfg: RunConfig, params: Params, batch: Batch) -> dict[str, list]:
  """Norm of the gradient of a group of parameters, and its ratio to theirs."""
  totals = cfg.task.totals(batch)

  def loss(params):
    return cfg.task.loss(params, {}, batch, jax.random.key(0), totals).share

  grads = jax.jit(jax.grad(loss))(params)
  squares = {}
  for (path, g), w in zip(
    jax.tree.leaves_with_path(grads), jax.tree.leaves(params), strict=True
  ):
    for group in {key.key for key in path} & set(GROUPS):
      before = squares.get(group, (0, 0))
      squares[group] = before[0] + float((g**2).sum()), before[1] + float((w**2).sum())
  return {
    group: [g**0.5, (g / w) ** 0.5 if w else math.inf]
    for group, (g, w) in squares.items()
  }


def measure(workdir: pathlib.Path, config: ConfigDict, steps: Sequence[int]) -> list:
  """What flows in a run at these steps; 0 is the model as it was initialised."""
  found = []
  for step in steps:
    cfg, params = load_model(str(workdir), config, step or None)
    if not step:
      params = jax.jit(cfg.task.init)(
        jax.random.split(jax.random.key(cfg.train.seed))[0]
      )
    batch = next(cfg.task.eval_batches(cfg.train.batch_size)[""])[0]
    forward, backward = (f(cfg, params, batch) for f in (flow_forward, flow_backward))
    found.append({"step": step, "forward": forward, "backward": backward})
  return found


def table(results: list[dict]) -> str:
  """Markdown: variances and ratios at the start, after a tenth and at the end."""
  head = ["", "step", *PLACES, "logits", *(f"grad {group}" for group in GROUPS)]
  lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  for result in results:
    for one in (result["found"][i] for i in (0, 1, -1)):
      cells = [result["row"], str(one["step"])]
      cells += [f"{one['forward'][name]:.3g}" for name in (*PLACES, "logits")]
      norms = one["backward"]
      cells += [f"{norms[group][0]:.3g}" if group in norms else "" for group in GROUPS]
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def draw(results: list[dict], path: pathlib.Path) -> None:
  """Variances on the way through a layer, and gradients over training."""
  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
  drawn = [result for result in results if result["row"] in DRAWN]
  for colour, result in enumerate(drawn):
    for one, style in ((result["found"][0], ":"), (result["found"][-1], "-")):
      values = [one["forward"][name] for name in PLACES]
      label = f"{result['row']}, step {one['step']}"
      left.plot(PLACES, values, style, marker="o", color=f"C{colour}", label=label)
    steps = [one["step"] for one in result["found"]]
    for group, style in (("experts", "-"), ("router", ":"), ("head", "--")):
      if group in result["found"][0]["backward"]:
        ratios = [one["backward"][group][1] for one in result["found"]]
        label = f"{result['row']}, {group}"
        right.plot(steps, ratios, style, color=f"C{colour}", label=label)
  left.set(yscale="log", ylabel="mean square", title="on the way through an MoE layer")
  right.set(
    yscale="log", xlabel="step", title="norm of the gradient / norm of the parameters"
  )
  for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
  figure.savefig(path, dpi=130)
  plt.close(figure)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--runs", type=pathlib.Path, required=True)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()

  def of_job(job: run.Job, _) -> dict:
    config = run.make_config(job, args.data, args.runs)
    steps = range(0, job.steps + 1, job.steps // 5)
    return {"found": measure(args.runs / run.name_of(job), config, steps)}

  def is_wanted(job: run.Job) -> bool:
    return job.seed == run.SEEDS[0] and rows.ROWS[job.row].layer is not None

  results = run.measure_finished(args.runs, args.out, of_job, is_wanted)
  text = table(results)
  (args.out / "results" / "flow.md").write_text(text)
  print(text)
  draw(results, args.out / "results" / "flow.png")


if __name__ == "__main__":
  main()
