import re

import pytest
import yaml
from huggingface_hub import ModelCard

from neuromeld.checkpoint import render_card

RECORD = {
    "source": "org/small-model",
    "source_kind": "hub",
    "model_type": "llama",
    "format": "stock",
    "parameters_before": 134_515_008,
    "parameters_after": 100_000_000,
    "kept_ratio": 0.7434,
    "changes": ["width of the residual stream: 576 -> 432"],
    "recipe": {"width": {"hidden_size": 432}, "output": "auto"},
    "calibration": {"source": "wikipedia-sample", "tokens": 32768},
    "seconds": 61.4,
    "peak_rss_bytes": 2_100_000_000,
    "versions": {"neuromeld": "0.1.0", "torch": "2.13.0"},
}
PERPLEXITY = {
    "perplexity": 21.345,
    "perplexity_before": 19.7,
    "protocol": {"source": "wikipedia-sample", "split": "evaluation", "seqlen": 512, "dtype": "float32"},
}

RETAINED = {"ratio": 0.9564, "low": 0.92, "high": 0.99}
TASKS = {
    "arc_easy": {
        "accuracy": 0.6121,
        "accuracy_before": 0.64,
        "retained": RETAINED,
        "protocol": {"metric": "acc", "questions": 500, "num_fewshot": 0, "lm_eval": "0.4.13"},
    }
}


def parts(card):
    """The parsed front matter, and the text."""
    _, matter, text = card.split("---\n", maxsplit=2)
    return yaml.safe_load(matter), text


def test_the_front_matter():
    matter, _ = parts(render_card(RECORD))
    assert matter == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "org/small-model",
        "tags": ["neuromeld", "compressed", "llama"],
    }


def test_only_a_hub_model_is_a_base_model():
    matter, text = parts(render_card(RECORD | {"source": "package:some_package", "source_kind": "package"}))
    assert "base_model" not in matter
    assert text.startswith("\n# some_package, compressed")
    assert "`package:some_package`" in text


def test_license_and_results_when_they_are_known():
    matter, text = parts(render_card(RECORD | {"license": "apache-2.0", "evaluation": [PERPLEXITY]}))
    assert matter["license"] == "apache-2.0"
    assert matter["model-index"] == [
        {
            "name": "small-model-neuromeld",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"name": "wikipedia-sample", "type": "wikipedia-sample", "split": "evaluation"},
                    "metrics": [{"type": "perplexity", "value": 21.345, "args": PERPLEXITY["protocol"]}],
                }
            ],
        }
    ]
    assert "(evaluation, windows of 512 tokens, float32): 21.34, 19.70 before\n" in text
    assert "Measured" not in render_card(RECORD)


def test_the_hub_reads_every_number_of_the_record():
    record = RECORD | {"evaluation": [PERPLEXITY], "tasks": TASKS, "retained_performance": RETAINED}
    card = render_card(record)
    results = ModelCard(card).data.eval_results
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in results] == [
        ("wikipedia-sample", "perplexity", 21.345),
        ("arc_easy", "accuracy", 0.6121),
    ]
    assert results[1].metric_args == TASKS["arc_easy"]["protocol"]
    assert "- Accuracy on arc_easy (acc, 500 questions, 0 examples in the prompt): 0.6121, 0.6400 before\n" in card
    assert "- Retained performance over these tasks: 0.956, 95 % interval 0.920 to 0.990\n" in card
    assert "\n\n\n" not in card


def test_the_table():
    text = render_card(RECORD | {"bytes_on_disk": 400_000_000})
    table = re.search(r"\n\n(\|.*\|)\n\n", text, flags=re.DOTALL).group(1).splitlines()
    assert table == [
        "| | before | after | kept |",
        "|---|---:|---:|---:|",
        "| parameters | 134,515,008 | 100,000,000 | 74.3% |",
        "| bytes on disk | | 400,000,000 | |",
    ]
    assert "bytes on disk" not in render_card(RECORD)


def test_the_recipe_can_be_read_back():
    text = render_card(RECORD)
    assert "```yaml\nwidth:\n  hidden_size: 432\noutput: auto\n```\n" in text
    assert "Calibration: source wikipedia-sample, tokens 32768.\n\n" in text
    assert "It took 61 s and 2.1 GB of memory, with neuromeld 0.1.0, torch 2.13.0.\n" in text


@pytest.mark.parametrize("form", ["stock", "native"])
def test_how_and_where_it_loads(form):
    text = render_card(RECORD | {"format": form})
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1)
    compile(code, "card", "exec")
    assert ("import neuromeld" in code) == (form == "native")
    assert ("trust_remote_code=True" in code) == (form == "native")


def test_what_engines_make_of_it_is_a_table():
    engines = [
        {"engine": "vLLM", "tried": "1.0", "how": "as it is", "reasons": []},
        {"engine": "llama.cpp", "tried": "2.0", "how": None, "reasons": ["it is round", "it is blue"]},
    ]
    text = render_card(RECORD | {"engines": engines})
    assert "|---|---|---|\n| vLLM | 1.0 | as it is |\n| llama.cpp | 2.0 | no: it is round; it is blue |\n" in text
    assert "| engine |" not in render_card(RECORD)


def test_the_layout_of_the_markdown():
    text = render_card(RECORD | {"evaluation": [PERPLEXITY, PERPLEXITY]})
    assert "\n\n\n" not in text
    assert text.endswith(".\n")
