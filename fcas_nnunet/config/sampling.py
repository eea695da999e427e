"""SamplingConfig: settings of the reverse diffusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from fcas_nnunet.config.options import PredictionType, Solver
from fcas_nnunet.config.schema import PositiveShare, ShareBelowOne, Sizes, settings
from fcas_nnunet.faults import InputError

DEFAULT_INFERENCE_STEPS = {Solver.DDPM: 1000, Solver.DPMSOLVER: 25, Solver.EULER: 30}


@settings
class SamplingConfig:
    """Settings of the reverse diffusion.

    Attributes:
        solver: `dpmsolver++`, or the paper's `ddpm` over all training timesteps; `euler` for a rectified flow, and for
            nothing else. None = the model's default: `euler` or `dpmsolver++`.
        num_inference_steps: Steps of the solver (`ddpm` always runs the full chain); None = 25, 30 for `euler`.
        strength: Share of the solver's steps that run. 1 = all, from noise; below, the first guess is noised to the
            step where they begin (SDEdit, arXiv 2108.01073): the lower, the more of the guess is kept, and the sooner
            the drawing is done. Needs `tcdm.prior`.
        window: Latent voxels along (D, H, W) of a sliding window; smaller latents need no window.
        overlap: Share of the window by which neighbours overlap.
    """

    solver: Solver | None = None
    num_inference_steps: Annotated[int, Field(ge=2)] | None = None
    strength: PositiveShare = 1.0
    window: Sizes = (32, 32, 32)
    overlap: ShareBelowOne = 0.25

    def for_model(self, prediction_type: PredictionType) -> SamplingConfig:
        """Return a copy with solver and steps filled in for a model.

        Raises:
            InputError: If the solver cannot run it.
        """
        flow = prediction_type == PredictionType.FLOW
        solver = self.solver or (Solver.EULER if flow else Solver.DPMSOLVER)
        if (solver == Solver.EULER) != flow:
            rule = "euler" if flow else "ddpm or dpmsolver++"
            raise InputError(
                f"solver: must be {rule} for a model that predicts {prediction_type}, got {solver}. Leave it out to "
                "take the model's own."
            )
        return replace(
            self, solver=solver, num_inference_steps=self.num_inference_steps or DEFAULT_INFERENCE_STEPS[solver]
        )
