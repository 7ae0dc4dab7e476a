"""Plans as text for people; `asdict` gives the same as JSON for programs."""

from collections.abc import Sequence

from mhmoe_jax.plan.accounting import Flops, Parameters, Sizes
from mhmoe_jax.plan.compile import Compiled
from mhmoe_jax.plan.parity import Rival, parities
from mhmoe_jax.train.config import RunConfig


def describe_model(
  cfg: RunConfig, parameters: Parameters, flops: Flops, sizes: Sizes
) -> str:
  """Parameters, FLOPs and bytes of a config, one line each."""
  part = cfg.train.batch_size // cfg.train.accumulate_steps
  return "\n".join(
    [
      f"parameters   {parameters.total:,}: {parameters.expert:,} in experts, "
      f"{parameters.other:,} elsewhere; at most {parameters.active:,} active per token",
      f"FLOPs/token  {flops.forward:.4g} forward, {flops.training:.4g} training, "
      f"at {cfg.task.tokens_per_example} tokens per example",
      f"bytes        {size(sizes.params)} parameters, {size(sizes.optimizer)} "
      f"optimizer state, {size(sizes.activations)} activations of {part} examples, "
      "over all devices",
    ]
  )


def describe_rivals(rivals: Sequence[Rival]) -> str:
  """The models of equal parameters and equal FLOPs, against the config's."""
  rows = []
  for rival in rivals:
    kept = zip(parities(rival), ("parameters", "FLOPs"), strict=True)
    rows.append(
      (
        rival.name,
        f"{rival.hidden:,}",
        f"{rival.num_experts:,}" if rival.num_experts else "-",
        f"{rival.parameters.total:,}",
        f"{rival.parameters.active:,}",
        f"{rival.flops:.4g}",
        f"{rival.parameter_ratio:.3f}",
        f"{rival.flop_ratio:.3f}",
        " and ".join(name for keeps, name in kept if keeps) or "neither",
      )
    )
  header = ("model", "hidden", "experts", "parameters", "active", "FLOPs/token")
  return columns([(*header, "x params", "x FLOPs", "equal"), *rows], left=(0, 8))


def describe_compiled(found: Compiled, model_flops: float, tokens: int) -> str:
  """What a compiled step needs and does, per device.

  Args:
    found: the compiled step.
    model_flops: of a step, over all devices, nothing recomputed.
    tokens: of a step.
  """
  chip = found.chip
  mesh = ", ".join(f"{axis}={n}" for axis, n in found.mesh.items())
  room = chip.usable - found.needed
  verdict = (
    f"fits, {size(room)} to spare" if found.fits else f"does not fit, by {size(-room)}"
  )
  lines = [
    f"devices      {found.num_devices} of {chip.name}, mesh {mesh}",
    f"memory       {verdict}: {size(found.needed)} of {size(chip.usable)} a device",
  ]
  if found.fits:
    least, most = found.step_seconds()
    high, low = found.utilization(model_flops)
    lines += [
      f"             {size(found.arguments)} arguments (state and batch), "
      f"{size(found.temporaries)} temporaries",
      f"work         {found.flops:.4g} FLOPs, {size(found.bytes)} of HBM traffic",
      f"time         at least {found.compute_seconds * 1e3:.4g} ms of computation and "
      f"{found.collective_seconds * 1e3:.4g} ms of communication at peak rates",
      f"             {least * 1e3:.4g} to {most * 1e3:.4g} ms a step, "
      f"{tokens / least / 1e6:.4g}M to {tokens / most / 1e6:.4g}M tokens/s, "
      f"MFU at most {high:.1%} (communication hidden) or {low:.1%} (not)",
    ]
    if found.unknown_loops:
      times = "one round" if found.rounds == 1 else f"{found.rounds} rounds"
      lines.append(
        f"             {found.unknown_loops} loops depend on how even the load is, and "
        f"count as {times} (--rounds)"
      )
  lines.append(f"compiled in  {found.compile_seconds:.0f} s")
  if found.collectives:
    rows = [
      (c.kind, str(c.group), f"{c.count:,}", size(c.bytes)) for c in found.collectives
    ]
    lines += ["", columns([("collective", "among", "times", "bytes"), *rows])]
  return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
  """Aligned columns, the first row a header; right-aligned but for those in `left`."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i in left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  )


def size(count: float) -> str:
  """Bytes with a unit."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if abs(count) < 1024:
      return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
    count /= 1024
  return f"{count:.2f} TiB"
