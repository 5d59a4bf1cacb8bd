"""The settings of a run: one frozen dataclass, and its presets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that the results depend on.

    Attributes:
      seed: of every draw.
      largest_dimension: cases of more dimensions are left out (V1).
      cone_trials: sequences of random circular cones (V1).
      orthant_trials: systems of rotated orthants for each number and dimension (V2).
      half_space_trials: systems of random half-spaces for each number (V3).
      half_space_dimensions: in which V3 happens.
      subspace_trials: sequences of random subspaces (V4).
      well_trials: sequences of random directions for each well (V5).
      dimension_samples: normal points for a statistical dimension (V5, V6).
      sparsities: nonzero entries of the signals that V6 recovers, of 100.
      recovery_trials: signals for each number of measurements (V6).
      recovery_points: numbers of measurements for each sparsity (V6).
      recovery_iterations: of the solver; 500 misclassify a few percent (V6).
      checked_trials: recoveries that a linear program repeats (V6).
      merge_trials: sets of synthetic experts (V7).
      merge_experts: experts in each (V7).
      tail_size: entries of each normal delta (V7).
      tail_experts: deltas; a power of 2 (V7).
    """

    seed: int = 0
    largest_dimension: int = 1000
    cone_trials: int = 1500
    orthant_trials: int = 600
    half_space_trials: int = 400
    half_space_dimensions: tuple[int, ...] = (5, 20)
    subspace_trials: int = 100
    well_trials: int = 1000
    dimension_samples: int = 20_000
    sparsities: tuple[int, ...] = (5, 10, 20, 30, 50, 70)
    recovery_trials: int = 40
    recovery_points: int = 11
    recovery_iterations: int = 2000
    checked_trials: int = 40
    merge_trials: int = 300
    merge_experts: int = 48
    tail_size: int = 200_000
    tail_experts: int = 64


PRESETS = {
    "smoke": Config(
        largest_dimension=50,
        cone_trials=100,
        orthant_trials=20,
        half_space_trials=20,
        half_space_dimensions=(5,),
        subspace_trials=5,
        well_trials=20,
        dimension_samples=500,
        sparsities=(20,),
        recovery_trials=8,
        recovery_points=5,
        checked_trials=4,
        merge_trials=100,  # as many as of cones: one program
        merge_experts=12,
        tail_size=4000,
        tail_experts=8,
    ),
    "cpu": Config(),
    "full": Config(
        cone_trials=10_000,
        orthant_trials=4000,
        half_space_trials=2000,
        well_trials=4000,
        dimension_samples=100_000,
        recovery_trials=100,
        checked_trials=200,
        merge_trials=1000,
        tail_size=1_000_000,
    ),
}
