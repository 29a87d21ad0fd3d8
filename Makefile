# The two commands of a newcomer are `make demo` and `make test`; each makes .venv if it must.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

IMAGE ?= tfserve
DOCKERFILE ?= docker/Dockerfile
DEVICE ?= cpu
TORCH ?= torch==2.13.0
ML ?= ml

.PHONY: demo test check format benchmarks quality container-tests conformance image train serve tensorboard clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# In parallel, with one thread each: what a worker of the tests computes is small.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/prediction.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/cold_start.py
	mkdir -p build
	$(BIN)/python benchmarks/serving/run.py build/serving.json
	$(BIN)/python benchmarks/serving/report.py build/serving.json docs/performance.md
	$(BIN)/python benchmarks/serving/stress.py
	$(BIN)/python benchmarks/boxes.py
	$(BIN)/python benchmarks/training.py

# Hours, on every core; goes on where it was stopped. What LoRA needs is of no use otherwise.
quality: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt peft
	$(BIN)/python benchmarks/quality/study.py benchmarks/quality/results.jsonl
	$(BIN)/python benchmarks/quality/summary.py benchmarks/quality/results.jsonl docs/quality.md

# Slow: the software of SageMaker's containers, its SDKs and, where there is one, an engine.
container-tests: $(VENV)/.installed
	$(BIN)/pytest tests/docker_test

# The same, and the table of docs/sagemaker.md from it.
conformance: $(VENV)/.installed
	$(BIN)/pytest tests/docker_test --conformance docs/sagemaker.md

# What people do every day with our own image; ML is the folder that stands for /opt/ml.
image:
	docker build --file $(DOCKERFILE) --tag $(IMAGE) $(BUILD_FLAGS) \
		--build-arg DEVICE=$(DEVICE) --build-arg TORCH=$(TORCH) \
		$(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
		$(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL)) \
		$(if $(PIP_EXTRA_INDEX_URL),--build-arg PIP_EXTRA_INDEX_URL=$(PIP_EXTRA_INDEX_URL)) \
		$(if $(PIP_FIND_LINKS),--build-arg PIP_FIND_LINKS=$(PIP_FIND_LINKS)) .

train serve:
	IMAGE=$(IMAGE) docker/local $@ $(ML)

tensorboard: $(VENV)/.installed
	$(BIN)/tensorboard --logdir $(ML)/output/tensorboard

clean:
	rm -rf $(VENV) demo-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tfserve: the pinned versions need Python 3.11 or newer: make PYTHON=python3.11")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[train,server,openvino,onnx,export,report,tune,demo,test]'
	touch $@
