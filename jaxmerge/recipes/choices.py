"""What recipes share: checks of choices, and whose election is whose."""

from jaxmerge.combine import SignElectedMean


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Refuses a choice that does not exist.

    Raises:
      ValueError: naming the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def elected_mean(compat: str, normalize: bool) -> SignElectedMean:
    """The sign election of TIES as the paper and PEFT do it, or as mergekit does."""
    if compat == "mergekit":
        return SignElectedMean("weighted", "weight" if normalize else "none")
    return SignElectedMean("total", "count" if normalize else "none")


def tie_rule(scope: str) -> str:
    """Which of equal magnitudes are kept: at whole-model scope all, else the first."""
    return "all" if scope == "tree" else "first"
