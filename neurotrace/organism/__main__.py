"""`python -m neurotrace.organism train|measure|card`: build and measure the organisms."""

import argparse
import json
from pathlib import Path
from typing import Any

DESIGN_NAMES = ("set", "natural", "switch", "or", "dropout")


def main() -> None:
    """Parse the command line and run one of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m neurotrace.organism", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one organism into a folder")
    train.add_argument("--design", choices=DESIGN_NAMES, default="set")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--steps", type=int, default=None, help="default: the design's")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="keep checkpoints too, in OUT/step-00000, ...: a multiple of 100 (0: none)",
    )
    measure = commands.add_parser("measure", help="measure a trained organism")
    measure.add_argument("folder", type=Path)
    measure.add_argument("--json", type=Path, default=None, help="default: print")
    measure.add_argument("--truth", action="store_true", help="write FOLDER/truth.json too")
    card = commands.add_parser("card", help="write FOLDER/README.md from measured files")
    card.add_argument("folder", type=Path)
    card.add_argument("measured", type=Path, nargs="+", help="one JSON a seed; the packaged first")
    args = parser.parse_args()
    # Imported here: --help needs no torch.
    if args.command == "train":
        from . import training

        design = training.DESIGNS[args.design]

        def keep(step: int, model: Any) -> None:
            if args.checkpoint_every and step % args.checkpoint_every == 0:
                record = {"design": args.design, "seed": args.seed, "step": step}
                training.save(model, record, args.out / f"step-{step:05}")

        model, record = training.train(
            design,
            args.seed,
            steps=args.steps,
            keep=keep,
            report=lambda step, plain, iit: print(step, f"{plain:.4f} {iit:.4f}", flush=True),
        )
        training.save(model, record, args.out)
    elif args.command == "measure":
        from . import truth

        measured = truth.measure(args.folder)
        text = json.dumps(measured, indent=2) + "\n"
        if args.json is None:
            print(text)
        else:
            args.json.write_text(text)
        if args.truth:
            truth.write_truth(args.folder, measured)
    else:
        from . import card as cards

        cards.write(args.folder, [json.loads(path.read_text()) for path in args.measured])


if __name__ == "__main__":
    main()
