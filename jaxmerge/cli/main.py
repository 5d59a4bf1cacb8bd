"""`jaxmerge`: the arguments, the commands, and the exit codes.

0 done, 1 failed, 2 bad usage or recipe, 130 interrupted.
"""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxmerge.cli.arguments import add_diagnose, add_law
from jaxmerge.cli.text import parse_bytes

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

# Options of mergekit-yaml that mean nothing here, and why.
_SWITCHES = {
    "allow-crimes": "models that do not fit one another are refused",
    "cuda": "jax uses the accelerator that it finds",
    "low-cpu-memory": "one tensor at a time is in memory",
    "clone-tensors": "tensors are always written whole",
    "trust-remote-code": "no code of a model is run",
    "lazy-unpickle": "pickles are not read",
    "write-model-card": "mergekit_config.yml is written, and no model card",
    "safe-serialization": "safetensors are always written",
    "read-to-gpu": "jax uses the accelerator that it finds",
    "multi-gpu": "a merge from the command line uses one device",
    "gpu-rich": "jax uses the accelerator that it finds",
    "async-write": "reading, arithmetic and writing always overlap",
}
_VALUES = {
    "lora-merge-cache": "adapters are merged as they are read",
    "lora-merge-dtype": "adapters are merged in float32",
    "device": "jax uses the device that it finds; JAX_PLATFORMS=cpu chooses",
    "num-threads": "jax uses the cores that the process may use",
    "write-threads": "one thread writes",
}


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_merge(commands: argparse._SubParsersAction) -> None:
    merge = commands.add_parser(
        "merge",
        help="merge checkpoints as a recipe says",
        description="Merge checkpoints as a recipe in mergekit's YAML says. The "
        "options of mergekit-yaml are accepted too.",
    )
    merge.add_argument("recipe", type=Path, help="a YAML file; see docs/yaml.md")
    merge.add_argument(
        "out", type=Path, nargs="?", help="the folder or file to be; not for --dry-run"
    )
    add = merge.add_argument
    add("--dry-run", action="store_true", help="print the plan; read no weight")
    add("--json", action="store_true", help="print the plan as JSON")
    add("--verbose", "-v", action="store_true", help="print every tensor of the plan")
    add("--quiet", "-q", action="store_true", help="print errors only")
    add("--overwrite", action="store_true", help="replace OUT, at the very end")
    add(
        "--seed",
        "--random-seed",
        type=int,
        default=0,
        help="of random methods (default 0)",
    )
    add(
        "--shard-size",
        "--out-shard-size",
        type=_size,
        default=5 * 10**9,
        metavar="SIZE",
        help="most bytes in a file, such as 5GB (the default)",
    )
    add(
        "--format",
        choices=("huggingface", "safetensors", "npz", "orbax", "peft"),
        help="of OUT; by its name and like the base if not given",
    )
    add("--checksums", action="store_true", help="record hashes of the models' bytes")
    add(
        "--cache",
        "--transformers-cache",
        type=Path,
        metavar="DIR",
        help="the Hugging Face cache; nothing is downloaded",
    )
    add(
        "--copy-tokenizer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="carry along the base's tokenizer",
    )
    for name in _SWITCHES:
        add(
            f"--{name}",
            action=argparse.BooleanOptionalAction,
            help=argparse.SUPPRESS,
        )
    for name in _VALUES:
        short = ("-j",) if name == "num-threads" else ()
        add(f"--{name}", *short, help=argparse.SUPPRESS)


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="say what checkpoints are, and whether they can be merged",
        description="Say what checkpoints are; of several, whether they can be merged.",
    )
    inspect.add_argument("checkpoint", nargs="+", help="a path, or a name in the cache")
    add = inspect.add_argument
    add("--json", action="store_true", help="print it as JSON")
    add("--verbose", "-v", action="store_true", help="print every tensor")
    add("--cache", type=Path, metavar="DIR", help="the Hugging Face cache")


def _add_saturation(commands: argparse._SubParsersAction) -> None:
    saturation = commands.add_parser(
        "saturation",
        help="measure how fast experts fill the space that they span",
        description="Measure the geometry of task vectors: norms, cosines, effective "
        "ranks, the Gaussian width of k experts, and every threshold T* whose inputs "
        "are given. Thresholds are reconstructions; see docs/kinematics.md.",
    )
    saturation.add_argument("base", help="a path, or a name in the cache")
    saturation.add_argument("experts", nargs="+", help="fine-tuned from it")
    add = saturation.add_argument
    add("--tolerance", type=float, help="share of the first gain that is negligible")
    add(
        "--half-angle",
        type=float,
        metavar="DEGREES",
        help="how far from its task vector an expert still works",
    )
    add("--dimension", type=float, help="of the space that task vectors have to fill")
    add("--eta", type=float, help="probability with which an interval may be wrong")
    add("--symmetric", action="store_true", help="take the hull with the negatives")
    add("--samples", type=int, default=4096, help="random directions (default 4096)")
    add("--seed", type=int, default=0, help="of the directions (default 0)")
    add("--figure", type=Path, metavar="FILE", help="draw the curve, such as to x.png")
    add("--json", action="store_true", help="print everything as JSON")
    add("--quiet", "-q", action="store_true", help="show no progress")
    add("--cache", type=Path, metavar="DIR", help="the Hugging Face cache")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="jaxmerge", description="Model merging in JAX.", allow_abbrev=False
    )
    version = importlib.metadata.version("jaxmerge")
    parser.add_argument("--version", action="version", version=f"jaxmerge {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_merge(commands)
    _add_inspect(commands)
    _add_saturation(commands)
    add_diagnose(commands)
    add_law(commands)
    return parser


def ignored_options(arguments: argparse.Namespace) -> list[str]:
    """Notes on options of mergekit that were given and mean nothing here."""
    given = vars(arguments)
    return [
        f"--{name} has no effect: {why}"
        for name, why in {**_SWITCHES, **_VALUES}.items()
        if given.get(name.replace("-", "_"))
    ]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    # `mergekit-yaml RECIPE OUT` has no command.
    if argv and Path(argv[0]).suffix in (".yml", ".yaml"):
        argv = ["merge", *argv]
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "merge":
        if arguments.out is None and not arguments.dry_run:
            parser.error("OUT is missing: jaxmerge merge RECIPE OUT, or --dry-run")
        if arguments.safe_serialization is False:
            parser.error("--no-safe-serialization: pickles are not written")
    return arguments


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "merge":
        from jaxmerge.cli.merge import run_merge

        run_merge(arguments, ignored_options(arguments))
    elif arguments.command == "law":
        from jaxmerge.cli.law import run_law

        run_law(arguments)
    elif arguments.command == "diagnose":
        from jaxmerge.cli.diagnose import run_diagnose

        run_diagnose(arguments)
    elif arguments.command == "saturation":
        from jaxmerge.cli.saturation import run_saturation

        run_saturation(arguments)
    else:
        from jaxmerge.cli.inspect import run_inspect

        run_inspect(arguments)


def _fail(problem: object, code: int) -> int:
    print(f"jaxmerge: error: {problem}", file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; this process's if None.

    Returns:
      The exit code.
    """
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # argparse has said why.
        return stop.code if isinstance(stop.code, int) else BAD_USAGE
    from jaxmerge.checkpoint.errors import RecipeError

    try:
        _run(arguments)
    except RecipeError as error:
        return _fail(error, BAD_USAGE)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError) as error:
        return _fail(error, FAILED)
    except MemoryError:
        return _fail("there is not enough memory", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
