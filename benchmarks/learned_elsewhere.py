"""What learning which neurons to keep gives on models that read no plain text, beside scores of single layers.

    python benchmarks/learned_elsewhere.py dinov2                                  after python benchmarks/dinov2.py
    python benchmarks/learned_elsewhere.py whisper --folder WHISPER --data PROMPTS  both of speech.py's --work
    python benchmarks/learned_elsewhere.py ruaccent --folder MODEL --data PAIRS.TSV  both of ruaccent.py's --work

Every FFN keeps half of its neurons, or all together do, and the ridge refits what reads them.  Losses are on the
validation split, which nothing is chosen by but the rows that measure widths by layer.  One line of JSON a row goes to
`--out`.
"""

import copy
import json
import time
from pathlib import Path

from layerwise import CASES, arguments_for
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.evaluation import unique_parameters
from neuromeld.recovery.held_out import held_out_loss

ROWS: dict[str, dict[str, object]] = {
    "random": {"selector": "random"},
    "wanda": {"selector": "wanda"},
    "obs": {"selector": "obs"},
    "taylor": {"selector": "taylor"},
    "learned": {"selector": "learned"},
    "taylor, by layer": {"selector": "taylor", "by_layer": True},
    "obs, widths by layer measured": {"selector": "obs", "by_layer": True},
    "learned, by layer": {"selector": "learned", "by_layer": True},
}


def main() -> None:
    arguments = arguments_for(str(__doc__))
    arguments.add_argument("--ratio", type=float, default=0.5)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/learned_elsewhere.jsonl"))
    options = arguments.parse_args()
    for seed in options.seeds:
        case = CASES[options.model](options, seed)
        model, processor = case.load()
        settings, reader, config = case.calibration, case.reader, model.config
        data = reader.calibration(settings, processor, config, settings.tokens).batches
        validation = reader.validation(settings, processor, config, settings.tokens).batches
        measure = held_out_loss(reader, settings, processor, config)
        whole = measure(model).nll
        for row, chosen in ROWS.items():
            smaller, begun = copy.deepcopy(model), time.process_time()
            recipe = {"ffn": {"ratio": options.ratio} | chosen, "calibration": settings.model_dump()}
            compress_model(smaller, make_plan(smaller, parse_recipe(recipe)), data, validation=validation)
            line = {"model": options.model, "seed": seed, "row": row, "ratio": options.ratio, "original": whole}
            line |= {"loss": measure(smaller).nll, "parameters": unique_parameters(smaller), "tokens": settings.tokens}
            line |= {"parameters_before": unique_parameters(model), "seconds": time.process_time() - begun}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
