"""Tokenizers, chat templates and the configs of processors, damaged."""

import json

from fuzz.case import CHEAP, TEXT, Case, Scene, compression
from fuzz.damage import TEXTS, VALUES, damage_file, damage_json

TEMPLATES = (
    "{{ 1 / 0 }}",
    "{% for m in messages %}{{ m.content",
    "{{ messages[0].x.y.z }}",
    "{{ raise_exception('no') }}",
    "{{ cycler.__init__.__globals__.os.listdir('.') }}",
    "",
    "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "{{ messages | tojson }}{{ undefined_function() }}",
)
KEYS = (
    "eos_token",
    "unk_token",
    "pad_token",
    "tokenizer_class",
    "model_max_length",
    "added_tokens_decoder",
    "auto_map",
)


def case(scene: Scene) -> Case:
    """A model whose tokenizer is damaged in one way."""
    draw = scene.draw
    folder = scene.take("model")
    text = scene.take("words.jsonl")
    files = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    config = json.loads(files[1].read_text())
    way = draw.randrange(6)
    if way == 0:
        damage_file(draw, draw.choice(files))
    elif way in (1, 2):
        damage_json(draw, files[way - 1])
    elif way == 3:
        files[1].write_text(json.dumps(config | {draw.choice(KEYS): draw.choice(draw.choice((TEXTS, VALUES)))}))
    elif way == 4:
        draw.choice(files).unlink()
    else:
        chat = [{"messages": [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]}] * 90
        text.write_text("\n".join(map(json.dumps, chat)))
        if draw.random() < 0.5:
            files[1].write_text(json.dumps(config | {"chat_template": draw.choice((*TEMPLATES, 3, [], {"a": "b"}))}))
        else:
            (folder / "chat_template.jinja").write_text(draw.choice(TEMPLATES))
    if draw.random() < 0.5:
        return Case(["similarity", "model", *TEXT])
    if draw.random() < 0.3:
        return Case(["evaluate", "model", "--text", "file:words.jsonl", "--tokens", "64", "--seqlen", "32"])
    return compression("model", *CHEAP, *TEXT)
