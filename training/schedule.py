"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from .recipe import ScheduleSettings


def warmup_steps(settings: ScheduleSettings, steps: int) -> int:
    """Below 1 a share of `steps`, rounded; from 1 on a number of steps; never more than `steps`."""
    count = settings.warmup * steps if settings.warmup < 1.0 else settings.warmup
    return min(round(count), steps)


def factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """What the peak learning rate is multiplied by at `step` (0-based) of `steps`.

    With w warm-up steps, m = min_lr_ratio and T = steps:

    - warm-up, step < w:  (step + 1) / w
    - cosine (Loshchilov & Hutter 2017):  m + (1 - m) * (1 + cos(pi * p)) / 2,  p = (step - w) / (T - w)
    - wsd, warm-up stable decay (Hu et al. 2024, MiniCPM), here with a linear fall as in Haegele et al. 2024:
      1 until the last d = round(decay * T) steps, then 1 - (1 - m) * (step - (T - d) + 1) / d
    - constant:  1

    Steps from T on have the value of the last one.
    """
    if steps < 1 or step < 0:
        raise ValueError(f"want step >= 0 and steps >= 1, got step={step} and steps={steps}")
    step = min(step, steps - 1)
    warmup, least = warmup_steps(settings, steps), settings.min_lr_ratio
    if step < warmup:
        return (step + 1) / warmup
    if settings.kind == "cosine":
        progress = (step - warmup) / (steps - warmup)
        return least + (1.0 - least) * (1.0 + math.cos(math.pi * progress)) / 2.0
    if settings.kind == "wsd":
        fall = max(round(settings.decay * steps), 1)
        into = step - (steps - fall) + 1
        return 1.0 if into <= 0 else 1.0 - (1.0 - least) * into / fall
    return 1.0
