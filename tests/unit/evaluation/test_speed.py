import pytest
import torch

from neuromeld.errors import UserInputError
from neuromeld.evaluation import measure_speed, speed


class Clock:
    """Advances by the number of tokens that a model has read, times that model's seconds a token."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls = []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def watch(self, name, model, seconds_per_token):
        def before(_module, _args, options):
            ids, cache = options["input_ids"], options.get("past_key_values")
            self.calls.append((name, ids.clone(), cache.get_seq_length() if cache is not None else 0))
            self.now += ids.shape[1] * seconds_per_token

        model.register_forward_pre_hook(before, with_kwargs=True)


OPTIONS = {"prompt_tokens": 6, "new_tokens": 3, "repeats": 2, "warmup": 1, "seed": 0}


def test_rates_are_tokens_over_seconds(llama, gpt2, monkeypatch):
    clock = Clock(monkeypatch)
    clock.watch("a", llama, 0.5)
    clock.watch("b", gpt2, 0.25)
    result = measure_speed({"a": llama, "b": gpt2}, batch_size=2, **OPTIONS)
    assert list(result) == ["a", "b"]
    for name, rate in (("a", 4), ("b", 8)):
        for measured in (result[name].prefill, result[name].decode):
            assert (measured.low, measured.median, measured.high) == (rate, rate, rate)


def test_the_spread_is_that_of_the_counted_rounds(llama, monkeypatch):
    rounds = iter([100.0, 0.5, 1.0, 0.25])  # seconds a token; the first is the warm-up
    clock = Clock(monkeypatch)

    def before(_module, _args, options):
        if options.get("past_key_values") is None:
            clock.seconds = next(rounds)
        clock.now += options["input_ids"].shape[1] * clock.seconds

    llama.register_forward_pre_hook(before, with_kwargs=True)
    result = measure_speed({"a": llama}, **OPTIONS | {"repeats": 3})["a"]
    for rate in (result.prefill, result.decode):
        assert (rate.low, rate.median, rate.high) == (1, 2, 4)


def test_models_alternate_on_the_same_prompt_with_a_growing_cache(llama, gpt2, monkeypatch):
    clock = Clock(monkeypatch)
    clock.watch("a", llama, 1.0)
    clock.watch("b", gpt2, 1.0)
    measure_speed({"a": llama, "b": gpt2}, **OPTIONS)
    assert [name for name, ids, _ in clock.calls if ids.shape[1] == 6] == ["a", "b"] * 3
    assert [(ids.shape[1], cached) for _, ids, cached in clock.calls] == [(6, 0), (1, 6), (1, 7), (1, 8)] * 6
    prompts = [ids for _, ids, _ in clock.calls if ids.shape[1] == 6]
    assert all(torch.equal(prompt, prompts[0]) for prompt in prompts)


def test_decoding_is_greedy(llama, monkeypatch):
    clock = Clock(monkeypatch)
    clock.watch("a", llama, 1.0)
    measure_speed({"a": llama}, **OPTIONS)
    first_round = [ids for _, ids, _ in clock.calls[:4]]
    generated = llama.generate(first_round[0], max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(torch.cat(first_round, dim=1), generated)


def test_the_prompt_depends_on_the_seed_and_fits_the_smallest_vocabulary(llama, gpt2, monkeypatch):
    gpt2.config.vocab_size = 3
    clock = Clock(monkeypatch)
    clock.watch("a", llama, 1.0)
    clock.watch("b", gpt2, 1.0)
    prompts = []
    for seed in (0, 0, 1):
        clock.calls.clear()
        measure_speed({"a": llama, "b": gpt2}, **OPTIONS | {"prompt_tokens": 40, "seed": seed})
        prompts.append(clock.calls[0][1])
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])
    assert prompts[0].unique().tolist() == [0, 1, 2]


def test_the_protocol_stands_beside_the_number_and_the_mode_is_given_back(gpt2):
    gpt2.train()
    protocol = measure_speed({"a": gpt2}, **OPTIONS)["a"].protocol
    threads = torch.get_num_threads()
    sizes = {"prompt_tokens": 6, "new_tokens": 3, "batch_size": 1, "repeats": 2}
    assert protocol == sizes | {"dtype": "float32", "device": "cpu", "threads": threads}
    assert gpt2.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0, "batch_size": 0}, "batch_size=0, repeats=0: each must be at least 1"),
        ({"prompt_tokens": 62}, "'a' has 64 positions, fewer than prompt_tokens=62 \\+ new_tokens=3"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(options, message, llama):
    with pytest.raises(UserInputError, match=message):
        measure_speed({"a": llama}, **OPTIONS | options)
