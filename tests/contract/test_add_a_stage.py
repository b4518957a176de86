"""Who follows `docs/add-a-stage.md` has added a stage."""

import re
import textwrap
from pathlib import Path

import pytest
import torch

from contract.families import batches_for, build, inputs_for
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.checkpoint import load_model, save_checkpoint
from neuromeld.cli.generated_options import options_of
from neuromeld.errors import UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.model.outputs import outputs
from neuromeld.planning.plan import CONTEXT, architecture_of
from neuromeld.planning.recipe import recipe_model
from neuromeld.stages import STAGES

DOCUMENT = Path(__file__).parents[2] / "docs" / "add-a-stage.md"
CALIBRATION = {"tokens": 1536, "seqlen": 16}


@pytest.fixture
def _added():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, object] = {"__name__": "first_neurons"}
    exec(compile(textwrap.dedent(code), str(DOCUMENT), "exec"), namespace)
    stage = namespace["FirstNeuronsStage"]()
    STAGES.insert([known.name for known in STAGES].index("ffn"), stage)
    yield
    STAGES.remove(stage)


def test_it_is_unknown_before():
    with pytest.raises(UserInputError, match="unknown recipe key 'first_neurons'"):
        parse_recipe({"first_neurons": {"size": 24}})


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_plan_and_result_agree_and_the_result_loads(family, tmp_path, tokenizer):
    model = build(family, dtype=torch.float32)
    expected = build(family, dtype=torch.float32)
    arch = architecture_of(expected)
    recipe = parse_recipe({"first_neurons": {"size": 24}, "calibration": CALIBRATION})
    plan = make_plan(model, recipe)
    compressed = compress_model(model, plan, batches_for(model))
    assert plan.format == "stock"
    assert compressed.record() == {"first_neurons": 24}
    assert unique_parameters(compressed.model) == plan.parameters_after
    assert flops_per_token(compressed.model, context=CONTEXT) == plan.flops_after
    for layer in range(arch.num_layers):  # the others write nothing
        consumer = expected.get_submodule(arch.consumer(layer, Space.FFN).path)
        consumer.register_forward_pre_hook(lambda _, args: (args[0] * (torch.arange(args[0].shape[-1]) < 24),))
    save_checkpoint(compressed.model, tokenizer, tmp_path, recipe_yaml=recipe.to_yaml())
    again = load_model(tmp_path, dtype=None, device="cpu")
    inputs = inputs_for(expected, 2)
    torch.testing.assert_close(outputs(again, inputs), outputs(expected, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_added")
def test_it_works_with_the_other_stages():
    model = build("llama")
    given = {"drop_layers": {"layers": [1]}, "heads": {"num_kv_heads": 1}, "width": {"hidden_size": 18}}
    plan = make_plan(model, parse_recipe(given | {"first_neurons": {"size": 24}, "calibration": CALIBRATION}))
    compressed = compress_model(model, plan, batches_for(model))
    assert list(compressed.results) == ["drop_layers", "heads", "first_neurons", "width"]
    assert set(compressed.sizes.ffn) == {24}


@pytest.mark.usefixtures("_added")
def test_schema_and_mistakes_name_it():
    assert "first_neurons" in recipe_model().model_json_schema()["properties"]
    with pytest.raises(UserInputError, match="first_neurons.size: Input should be greater than 0"):
        parse_recipe({"first_neurons": {"size": 0}})


@pytest.mark.usefixtures("_added")
def test_command_line_has_its_option():
    (stage,) = (stage for stage in STAGES if stage.name == "first_neurons")
    (option,) = options_of(stage.Options, stage.name, stage.prefix, "Stages")
    assert (option.flag, option.field, option.target) == ("--first-neurons-size", "size", True)
