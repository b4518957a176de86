"""What every architecture must do with every method, on tiny random models."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Phi3Config

import neuromeld
from contract.families import FAMILIES, GATED, WIDTH, batches_for, build, exact_norms, inputs_for, tokens
from contract.kinds import (
    EXPERTS,
    HEADS,
    IMAGES,
    NO_LOSS,
    NO_SHARING,
    NO_WIDTH,
    ROUNDED,
    SPECS,
    STOCK,
    WIDE,
    each_with,
    possible,
)
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.spec import Space
from neuromeld.checkpoint import load_model, save_checkpoint
from neuromeld.errors import NeuromeldError, UnsupportedModelError, UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.model.native.classes import auto_class
from neuromeld.model.outputs import outputs
from neuromeld.model.surgery import reversible
from neuromeld.planning.pipeline import job_of, run_stages
from neuromeld.planning.plan import CONTEXT, architecture_of, meta_model

EXACT = 1e-9
SAME_AFTER_SAVING = 1e-5


METHODS = {
    "prune": {"selector": "mean_abs_activation"},
    "principal": {"selector": "principal"},
    "dotresize": {"selector": "mean_abs_activation", "merge": "transport"},
    "dotresize-transport": {"selector": "rms", "merge": "transport", "decoder": "transport"},
    "ridge": {"selector": "random", "decoder": "ridge"},
    "refit": {"selector": "mean_abs_activation", "merge": "transport", "refit": True},
}
FFN = {"ffn": {"size": 24}}
STAGES = {
    "ffn": FFN,
    "ffn-random-none": {"ffn": {"size": 23, "selector": "random", "compensate": "none"}},
    "ffn-transport": {"ffn": {"ratio": 0.6, "selector": "flap", "merge": "transport"}},
    "ffn-kmeans": {"ffn": {"ratio": 0.6, "selector": "leverage", "merge": "kmeans"}},
    "ffn-gradient": {"ffn": {"ratio": 0.6, "selector": "taylor"}},
    "ffn-per-layer": {"ffn": {"size": [24, 40, 8, 1], "selector": "obs"}},
    "drop": {"drop_layers": {"count": 2}},
    "merge": {"share_ffns": {"count": 2}},
    "delete": {"remove_ffns": {"count": 2}},
    "experts": {"experts": {"count": 2}},
    "experts-ffn-width": {
        "experts": {"count": 2, "merge": "average", "selector": "frequency"},
        **FFN,
        "width": {"hidden_size": WIDTH - 6},
    },
    "merge-members": {"share_ffns": {"count": 2, "gain": "channel", "rank": 3}},
    "merge-vanilla": {"share_ffns": {"window": [1, 3], "align": "none", "compensate": "none"}},
    "drop-ffn-width-merge": {
        "drop_layers": {"layers": [0, 2]},
        **FFN,
        "width": {"hidden_size": WIDTH - 6},
        "share_ffns": {"window": [0, 1]},
    },
}
GROUPS = {
    "heads": {"heads": {"num_kv_heads": 1}},
    "heads-per-layer": {
        "heads": {"num_kv_heads": [1, 2, 2, 1], "selector": "mean_abs_activation", "compensate": "none"}
    },
    "heads-ffn-width": {"heads": {"num_kv_heads": 1}, **FFN, "width": {"hidden_size": WIDTH - 6, "basis": "run:2"}},
}


def recipe(output: str = "auto", **width: object) -> neuromeld.Recipe:
    width = {"hidden_size": WIDTH - 6, "refit": False} | width
    return parse_recipe({"width": width, "output": output, "calibration": {"tokens": 1536, "seqlen": 16}})


def stages(output: str = "auto", **given: object) -> neuromeld.Recipe:
    return parse_recipe(given | {"output": output, "calibration": {"tokens": 1536, "seqlen": 16}})


def sized(model, chosen: neuromeld.Recipe) -> neuromeld.Recipe:
    """With sizes rounded to what kernels want."""
    every = architecture_of(model).spec.kernel_multiple
    given = chosen.model_dump(exclude_none=True)
    for stage, key in (("ffn", "size"), ("width", "hidden_size")):
        size = given.get(stage, {}).get(key)
        if size is not None:
            up = [-(-one // every) * every for one in ([size] if isinstance(size, int) else size)]
            given[stage][key] = up[0] if isinstance(size, int) else up
    return parse_recipe(given)


def narrow(model, chosen: neuromeld.Recipe, num: int = 96):
    plan = make_plan(model, sized(model, chosen))
    return compress_model(model, plan, batches_for(model, num)).model, plan


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return outputs(model, inputs_for(model, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_claimed(family):
    arch = architecture_of(build(family))
    assert arch.width == WIDTH
    assert family in IMAGES or arch.widths[Space.VOCAB] == 97


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_space_is_stock_native_or_refused(name):
    spec = ARCHITECTURES[name]
    stock = {*spec.stock_keys} | ({"heads"} if spec.head_keys else set())
    for space in ("residual", "heads", "ffn"):
        assert space in stock or space in spec.native_only or spec.refusal(space)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_config_is_covered(name):
    assert architecture_of(meta_model(AutoConfig.for_model(name))).spec is ARCHITECTURES[name]


FULL = {
    f"{name}-{basis}": options | {"basis": basis}
    for name, options in {"principal": METHODS["principal"], "transport": METHODS["dotresize"]}.items()
    for basis in ("shared", "run:3", "layer")
}


@pytest.mark.parametrize(("family", "method"), each_with(WIDE, FULL, every=["principal-run:3"]))
def test_full_width_changes_nothing(family, method):
    model = exact_norms(build(family))
    expected = logits(model)
    model, _ = narrow(model, recipe(output="native", hidden_size=WIDTH, **FULL[method]))
    assert (logits(model) - expected).norm() / expected.norm() < EXACT


@pytest.mark.parametrize("family", WIDE)
def test_stages_alone_run_as_their_result_does_and_can_be_undone(family):
    """What the planner and the search for windows measure is the model that would be saved."""
    chosen = recipe(output="native", selector="mean_abs_activation", basis="run:2")
    model = build(family)
    before = logits(model)
    with reversible(model):
        plan = make_plan(model, sized(model, chosen))
        run_stages(job_of(model, plan, batches_for(model)), plan)
        alone = logits(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    result, _ = narrow(model, chosen)
    torch.testing.assert_close(alone, logits(result), rtol=0, atol=0)


@pytest.mark.parametrize("family", STOCK)
def test_full_width_changes_nothing_in_stock_form(family):
    model = exact_norms(build(family))
    expected = logits(model)
    model, plan = narrow(model, recipe(output="stock", hidden_size=WIDTH))
    assert plan.format == "stock"
    assert (logits(model) - expected).norm() / expected.norm() < EXACT


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2-untied", "gpt_neox", "phi3"])
@pytest.mark.parametrize("method", ["prune", "dotresize-transport", "ridge"])
def test_narrow_model_is_the_simulated_one(family, method):
    """`x -> x E D` before every norm of the full model gives the logits of the narrow one."""
    model, simulated = exact_norms(build(family)), exact_norms(build(family))
    plan = make_plan(model, recipe(output="native", **METHODS[method]))
    compressed = compress_model(model, plan, batches_for(model))
    basis = compressed.results["width"].narrowed.bases[0]
    projection = basis.write @ basis.read
    for norm in architecture_of(simulated).residual_reads:
        simulated.get_submodule(norm.path).register_forward_pre_hook(lambda _, args: (args[0] @ projection,))
    expected = logits(simulated)
    assert (logits(compressed.model) - expected).norm() / expected.norm() < EXACT


@pytest.mark.parametrize(("family", "method"), each_with(WIDE, METHODS, every=["prune", "refit"]))
def test_plan_predicts_parameters_and_model_survives_saving(family, method, tmp_path, tokenizer):
    check_saving(
        family, recipe(basis="run:2" if method == "prune" else "shared", **METHODS[method]), tmp_path, tokenizer
    )


@pytest.mark.parametrize("family", ROUNDED)
@pytest.mark.parametrize("stage", [{"ffn": {"size": 23}}, {"width": {"hidden_size": 18}}])
def test_sizes_that_kernels_cannot_run_are_refused(family, stage):
    with pytest.raises(UserInputError, match="(23|18) cannot be run.*multiples of 8"):
        make_plan(meta_model(FAMILIES[family]()), stages(**stage))


@pytest.mark.parametrize("family", NO_SHARING)
def test_experts_are_not_merged(family):
    with pytest.raises(
        UnsupportedModelError,
        match="FFNs cannot be merged in .* expert.*Stages.*: drop_layers, experts, heads, ffn,",
    ):
        make_plan(meta_model(FAMILIES[family]()), stages(**STAGES["merge"]))


@pytest.mark.parametrize(("family", "method"), each_with(FAMILIES, STAGES, every=["delete", "drop-ffn-width-merge"]))
def test_stages_predict_parameters_and_survive_saving(family, method, tmp_path, tokenizer):
    chosen = possible(family, STAGES[method])
    if family in [*EXPERTS, *NO_LOSS] and method == "ffn-gradient":
        with pytest.raises(NeuromeldError, match="selector=taylor"):
            make_plan(meta_model(FAMILIES[family]()), stages(**chosen))
        return
    if chosen:
        check_saving(family, stages(**chosen), tmp_path, tokenizer)


@pytest.mark.parametrize(("family", "method"), each_with(FAMILIES, GROUPS, every=["heads-ffn-width"]))
def test_groups_of_heads_are_taken_out_or_refused_with_the_reason(family, method, tmp_path, tokenizer):
    chosen = stages(**possible(family, GROUPS[method]))
    if family not in HEADS:
        with pytest.raises(UnsupportedModelError, match="heads cannot be taken out of .* models: .*(width|ALiBi|head)"):
            make_plan(build(family), chosen)
        return
    check_saving(family, chosen, tmp_path, tokenizer)


@pytest.mark.parametrize("family", HEADS)
def test_groups_that_are_taken_out_are_those_that_would_write_nothing(family):
    model, silenced = build(family), build(family)
    plan = make_plan(model, stages(heads={"num_kv_heads": 1, "compensate": "none"}))
    compressed = compress_model(model, plan, batches_for(model))
    arch = architecture_of(silenced)
    found = compressed.results["heads"].layers
    for done in found:
        mask = torch.zeros(done.before, arch.widths[Space.HEADS] // done.before, dtype=torch.float64)
        mask[list(done.kept)] = 1.0
        consumer = silenced.get_submodule(arch.consumer(done.layer, Space.HEADS).path)
        consumer.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask.flatten(),))
    assert len(found) == architecture_of(silenced).num_layers
    torch.testing.assert_close(logits(compressed.model), logits(silenced), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", NO_WIDTH)
def test_width_is_refused_with_the_reason_where_it_cannot_be(family):
    model = meta_model(FAMILIES[family]())
    for output in ("stock", "native"):
        with pytest.raises(
            UnsupportedModelError,
            match="stream cannot be narrowed in .* (norms (on|mult|stand)|two streams|patches).*work: .*drop_layers",
        ):
            make_plan(model, recipe(output=output))


@pytest.mark.parametrize("family", NO_LOSS)
@pytest.mark.parametrize("stage", ["drop_layers", "share_ffns"])
def test_layers_are_not_chosen_by_a_loss_that_is_not_there(family, stage):
    with pytest.raises(UnsupportedModelError, match="cannot be chosen by their loss.*--share-ffns-at"):
        make_plan(meta_model(FAMILIES[family]()), stages(**{stage: {"count": 2}}))


@pytest.mark.parametrize("method", ["ffn", "ffn-transport", "merge", "drop-ffn-width-merge"])
def test_fused_matrices_give_what_separate_ones_do(method):
    separate = build("llama")
    fused = AutoModelForCausalLM.from_config(Phi3Config(**GATED, rms_norm_eps=1e-6)).double().eval()
    state = separate.state_dict()
    for prefix, layer in ((f"model.layers.{i}.", separate.model.layers[i]) for i in range(4)):
        attention, ffn = layer.self_attn, layer.mlp
        qkv = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        state[f"{prefix}self_attn.qkv_proj.weight"] = torch.cat(qkv)
        state[f"{prefix}mlp.gate_up_proj.weight"] = torch.cat([ffn.gate_proj.weight, ffn.up_proj.weight])
    fused.load_state_dict({name: state[name] for name in fused.state_dict()})
    torch.testing.assert_close(logits(fused), logits(separate))
    results = [logits(narrow(model, stages(output="native", **STAGES[method]))[0]) for model in (fused, separate)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_layer_is_one_that_does_nothing(family, tmp_path):
    model, skipping = build(family, dtype=torch.float32), build(family, dtype=torch.float32)
    model, plan = narrow(model, stages(drop_layers={"layers": [1], "compensate": "none"}))
    assert plan.format == "stock"
    arch = architecture_of(skipping)
    for start in arch.stack_offsets:
        layer = skipping.get_submodule(arch.layer_path(start + 1))
        layer.register_forward_hook(lambda _, args, out: (args[0], *out[1:]) if isinstance(out, tuple) else args[0])
    model.save_pretrained(tmp_path)
    again = auto_class(type(model)).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(model), logits(skipping))
    torch.testing.assert_close(logits(again), logits(skipping))


def check_saving(family, chosen, tmp_path, tokenizer):
    """What the plan says of the parameters is so, in memory and on disk, and what is loaded is what was saved."""
    model = build(family, dtype=torch.float32)
    chosen = sized(model, chosen)
    predicted = make_plan(meta_model(model.config), chosen, dtype=torch.float32)
    model, plan = narrow(model, chosen, num=24)
    assert predicted == plan
    assert unique_parameters(model) == plan.parameters_after
    assert flops_per_token(model, context=CONTEXT) == plan.flops_after
    save_checkpoint(model, tokenizer, tmp_path, recipe_yaml=chosen.to_yaml())
    again = auto_class(type(model)).from_pretrained(tmp_path)
    assert unique_parameters(again) == plan.parameters_after
    file = (tmp_path / "model.safetensors").read_bytes()
    weights = len(file) - 8 - int.from_bytes(file[:8], "little")
    assert plan.bytes_after <= weights < plan.bytes_after + 1000
    difference = (logits(again) - logits(model)).abs().max() / logits(model).abs().max()
    assert difference < SAME_AFTER_SAVING
    if not again.can_generate():
        return
    first = inputs_for(model, 1)[model.main_input_name]
    generated = again.generate(
        first, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0, suppress_tokens=[0]
    )
    given = {"tokens": 16, "pairs": 1, "speech": 0}[SPECS[family].inputs]
    assert generated.shape == (1, given + 3)


@pytest.mark.parametrize("family", ["llama", *IMAGES])
def test_native_checkpoint_of_a_stock_one_that_calls_its_weights_otherwise(family, tmp_path, tokenizer):
    """transformers renames the weights of old families on their way from and to disk."""
    build(family, dtype=torch.float32).save_pretrained(tmp_path / "stock")
    model = load_model(tmp_path / "stock", dtype=None, device="cpu")
    model, _ = narrow(model, stages(share_ffns={"window": [0, 2]}))
    (tmp_path / "native").mkdir()
    save_checkpoint(model, tokenizer, tmp_path / "native", recipe_yaml="")
    again = load_model(tmp_path / "native", dtype=None, device="cpu")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=SAME_AFTER_SAVING)


@pytest.mark.parametrize("family", WIDE)
def test_stock_is_refused_with_a_reason_where_it_cannot_be(family):
    chosen = recipe(output="stock", basis="run:2")
    with pytest.raises(UserInputError, match="no place for the changes of basis.*--native"):
        make_plan(build(family), chosen)
    if family not in STOCK:
        with pytest.raises(UserInputError, match="(one width for the residual|hidden_size // num_att).*--native"):
            make_plan(build(family), recipe(output="stock"))


def test_padding_is_not_seen():
    """Left and right padding, with anything in it, leaves the result as it was."""
    ids = tokens(48)
    results = []
    for filler in (5, 60):
        data = []
        for b in ids.split(8):
            padded = torch.cat([torch.full_like(b[:, :3], filler), b, torch.full_like(b[:, :2], filler)], dim=1)
            mask = torch.ones_like(padded)
            mask[:, :3], mask[:, -2:] = 0, 0
            data.append({"input_ids": padded, "attention_mask": mask})
        model = build("llama")
        plan = make_plan(model, recipe(selector="mean_abs_activation", merge="transport", refit=True))
        results.append(logits(compress_model(model, plan, data).model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_same_seed_same_result():
    first, second = (
        narrow(build("llama-tied"), recipe(selector="random", merge="transport", refit=True))[0] for _ in range(2)
    )
    assert torch.equal(logits(first), logits(second))


def test_refit_lowers_the_error_of_the_logits():
    expected = logits(build("llama"))
    errors = [
        float(
            (logits(narrow(build("llama"), recipe(selector="mean_abs_activation", refit=refit))[0]) - expected).norm()
        )
        for refit in (False, True)
    ]
    assert errors[1] < 0.95 * errors[0]
