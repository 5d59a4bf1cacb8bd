"""The settings of a run, and its presets: those of `saturation`, on other families."""

from experiments.saturation.config import Config

# `jaxmerge.default` was chosen among some dozens of candidates on these, by hand.
DESIGNED_ON = ("regression", "deep")
_UNSEEN = (
    ("softmax", 3),
    ("perceptron", 3),
    ("mlp", 1),
    ("vit", 1),
    ("llm_0.1M", 1),
    ("llm_0.25M", 1),
)

PRESETS = {
    "smoke": Config(
        families=(("softmax_small", 2),),
        counts=(1, 2, 4),
        subsets=2,
        methods=("average", "ties", "swudi", "regmean", "default"),
        population=None,
    ),
    "cpu": Config(families=_UNSEEN, population=None),
    "gpu": Config(
        families=(
            ("softmax_gpu", 5),
            ("perceptron_gpu", 5),
            ("mlp_gpu", 5),
            ("vit_gpu", 5),
            ("resnet_gpu", 5),
            ("llm_3M_gpu", 2),
            ("llm_10M_gpu", 2),
        ),
        counts=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50),
        subsets=20,
        population=None,
    ),
}
