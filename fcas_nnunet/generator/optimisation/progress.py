"""Write a training run's progress: progress.png, training.log, sample pictures, and TensorBoard if installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase

from fcas_nnunet.files import atomic_path, atomic_write_text

PROGRESS_FILE, LOG_FILE = "progress.png", "training.log"
SAMPLES_FOLDER, TENSORBOARD_FOLDER = "samples", "tensorboard"
PIXELS_PER_INCH = 100
PANEL_INCHES = 2.4
LOSSES_INCHES = (8.0, 5.0)
RATES_SHOWN = 500


@dataclass
class History:
    """Losses of a training so far."""

    train_losses: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    @property
    def validations_since_best(self) -> int:
        """Number of validations since the best one; 0 if it was the last."""
        if not self.validation_losses:
            return 0
        return len(self.validation_losses) - 1 - self.validation_losses.index(min(self.validation_losses))

    def recent_loss(self, steps: int, end: int | None = None) -> float:
        """Mean training loss of the last steps, or of those before the step `end`."""
        recent = self.train_losses[:end][-steps:]
        return sum(recent) / len(recent)


@dataclass(frozen=True)
class Panel:
    """One volume of a sample picture.

    Attributes:
        title: Title above the volume.
        volume: The volume, [D, H, W].
        limits: Values shown black and white; None = a label map, in colours.
    """

    title: str
    volume: np.ndarray
    limits: tuple[float, float] | None = (0.0, 1.0)


def channel_panels(title: str, image: torch.Tensor, limits: tuple[float, float] | None = (0.0, 1.0)) -> list[Panel]:
    """A panel for each channel of an image, [C, D, H, W]; of several, with its number."""
    volumes = image.float().cpu().numpy()
    titles = [title] if len(volumes) == 1 else [f"{title}, channel {number}" for number in range(len(volumes))]
    return [Panel(of_it, volume, limits) for of_it, volume in zip(titles, volumes, strict=True)]


class ProgressFolder:
    """Writes a run's progress into its folder.

    Args:
        folder: Folder of the run.
        name: Title of the plot.
        step: Last finished step; TensorBoard's entries of a killed run after it are removed.
        writes: Whether this process writes; only the main one does.
    """

    def __init__(self, folder: Path, name: str, step: int, writes: bool) -> None:
        self.folder = folder
        self.name = name
        self.writes = writes
        self._panels: Sequence[Panel] = ()
        self._board: Any = None
        if writes:
            with suppress(ImportError):  # TensorBoard is an extra
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=step + 1 if step else None)

    def close(self) -> None:
        """Write pending entries, and close TensorBoard."""
        if self._board is not None:
            self._board.close()

    def trained(self, step: int, loss: float, learning_rate: float) -> None:
        """Record a training step."""
        if self._board is not None:
            self._board.add_scalar("loss/training", loss, step)
            self._board.add_scalar("learning rate", learning_rate, step)

    def validated(self, history: History, validate_every: int, learning_rate: Callable[[int], float]) -> None:
        """Record the last validation of `history`; the log averages the training loss over `validate_every` steps."""
        if self.writes and self._board is not None:
            self._board.add_scalar("loss/validation", history.validation_losses[-1], history.validation_steps[-1])
            self._board.flush()
        self.catch_up(history, validate_every, learning_rate)

    def catch_up(self, history: History, validate_every: int, learning_rate: Callable[[int], float]) -> None:
        """Write the log and the picture anew if the log is not that of `history`, as after a kill before its line."""
        lines = [
            f"step {step}: loss {history.recent_loss(validate_every, step):.5f}, validation {validation:.5f}, "
            f"learning rate {learning_rate(step - 1):.2e}\n"
            for step, validation in zip(history.validation_steps, history.validation_losses, strict=True)
        ]
        log, text = self.folder / LOG_FILE, "".join(lines)
        if not self.writes or not lines or (log.is_file() and log.read_text(encoding="utf-8") == text):
            return
        figure = plot_progress(history, learning_rate, self._panels, self.name)
        with atomic_path(self.folder / PROGRESS_FILE) as temporary:
            figure.savefig(temporary, format="png", dpi=PIXELS_PER_INCH)
        atomic_write_text(log, text)

    def sampled(self, step: int, panels: Sequence[Panel]) -> None:
        """Write samples to samples/step_<step>.png; progress.png shows the last ones, too."""
        self._panels = panels
        figure = plot_panels(panels, f"{self.name}, step {step}")
        with atomic_path(self.folder / SAMPLES_FOLDER / f"step_{step:06d}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=PIXELS_PER_INCH)
        if self._board is not None:
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            self._board.add_image("sample", np.asarray(canvas.buffer_rgba())[..., :3], step, dataformats="HWC")


def plot_progress(
    history: History, learning_rate: Callable[[int], float], panels: Sequence[Panel], name: str
) -> Figure:
    """Training and validation loss over the steps, the learning rate below, and the last samples beside them."""
    size = _panels_size(panels)
    figure = Figure(figsize=(LOSSES_INCHES[0] + size[0], max(LOSSES_INCHES[1], size[1])))
    figure.suptitle(name)
    if not panels:  # by hand: computing a layout takes longer than the rest of the picture
        figure.subplots_adjust(left=0.11, right=0.98, bottom=0.1, top=0.92, hspace=0.06)
    else:
        figure.set_layout_engine("constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=[LOSSES_INCHES[0], size[0]])
        left, right = halves
        _draw_panels(right, panels)
    losses, rates = (left if panels else figure).subplots(2, 1, sharex=True, height_ratios=[3, 1])
    count = len(history.train_losses)
    losses.plot(range(1, count + 1), history.train_losses, lw=0.6, alpha=0.5, label="training")
    losses.plot(history.validation_steps, history.validation_losses, "o-", ms=3, label="validation")
    losses.set(ylabel="loss", yscale="log")
    losses.legend()
    shown = np.unique(np.linspace(0, count - 1, RATES_SHOWN).astype(int))
    rates.plot(shown + 1, [learning_rate(int(step)) for step in shown], lw=0.8)
    rates.set(xlabel="step", ylabel="learning rate")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    return figure


def plot_panels(panels: Sequence[Panel], title: str) -> Figure:
    """The middle slices of some volumes side by side, a row for each of the three planes."""
    figure = Figure(figsize=_panels_size(panels), layout="constrained")
    figure.suptitle(title)
    _draw_panels(figure, panels)
    return figure


def _panels_size(panels: Sequence[Panel]) -> tuple[float, float]:
    return PANEL_INCHES * len(panels), (PANEL_INCHES * 3 + 0.5) * bool(panels)


def _draw_panels(figure: FigureBase, panels: Sequence[Panel]) -> None:
    grid = figure.subplots(3, len(panels), squeeze=False)
    codes = max((int(panel.volume.max()) for panel in panels if panel.limits is None), default=0)
    for axis, row in enumerate(grid):
        for panel, axes in zip(panels, row, strict=True):
            image = np.take(panel.volume, panel.volume.shape[axis] // 2, axis)
            low, high = panel.limits or (0, max(codes, 1))
            axes.imshow(image, cmap="gray" if panel.limits else "nipy_spectral", vmin=low, vmax=high)
            axes.set_axis_off()
            if axis == 0:
                axes.set_title(panel.title, fontsize=9)
