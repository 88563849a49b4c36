# One command each; all are safe to repeat. Python 3.11 or newer is all that must be there.
PYTHON ?= python3
BIN := .venv/bin
# The files of tests side by side, each in one process. Where the environment forbids files of bytecode, each of the
# processes that tests start would compile the sources anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist loadfile
PROMPT ?= a castle above a meadow at sunset
SEED ?= 7

MINUTES ?= 195
DEVICE ?= auto
FLAGS ?=

.PHONY: help install demo test test-long test-draws lint site bench bench-attention bench-decode bench-memory bench-phases presets recommended soak bench-quantization bench-schedulers gallery tiling-pictures train-tiny eval-tiny ablation wheels check-dist test-wheels check-versions comfy-pack clean

help:
	@echo "make demo     make outputs/demo.jpg and outputs/demo.html (installs what is needed first)"
	@echo "make test     run the tests"
	@echo "make test-long  those that take ten seconds or more each (three minutes)"
	@echo "make test-draws  those that draw at random, with many more draws (ten minutes)"
	@echo "make lint     ruff, mypy, import-linter, and whether links lead somewhere"
	@echo "make site     the documents and a reference of the API as a site, in site/"
	@echo "make bench    measure against plain diffusers; results in bench/results"
	@echo "make bench-decode  measure the autoencoder's memory and time at four sizes (half an hour)"
	@echo "make bench-attention  measure every attention backend and write docs/attention-matrix.md (20 minutes)"
	@echo "make bench-schedulers  measure solvers and consistency; draw the curves of docs/schedulers.md (25 minutes)"
	@echo "make bench-memory  predicted memory against measured; table of docs/memory.md (20 minutes)"
	@echo "make bench-phases  the baseline and every control; tables of docs/benchmarks (an hour)"
	@echo "make presets  every preset's plan for FLUX.1-dev; tables of docs/choosing.md"
	@echo "make recommended  measure what is recommended; table of docs/choosing.md (five minutes)"
	@echo "make soak     200 generations in one process; fails if anything grows (five minutes)"
	@echo "make bench-quantization  measure every quantization on the CPU; tables of docs/quantization.md (30 minutes)"
	@echo "make gallery  paint the README's and the model card's pictures anew"
	@echo "make train-tiny  render, train and export the embedded model; goes on where it was stopped"
	@echo "                 (MINUTES=195 DEVICE=auto; FLAGS=--go-on trains the shipped weights further)"
	@echo "make eval-tiny   measure the embedded model; fails if it breaks a promise"
	@echo "make ablation    measure what each of DiT360's losses does, after train-tiny"
	@echo "make comfy-pack  what ComfyUI shows beside the nodes (help, translation, examples), anew from the nodes"
	@echo "make wheels   build the distributions into dist/, anew and reproducibly"
	@echo "make check-dist   install every extra from those wheels into an environment of its own, and paint with it"
	@echo "                  (ten minutes; FLAGS=\"bnb ddim\" for some, core for none)"
	@echo "make test-wheels  run the tests on the wheels, without the sources; then each distribution alone"
	@echo "                  (half an hour; FLAGS=--quick, FLAGS=together, FLAGS=alone)"
	@echo "make check-versions  run the tests with the oldest and the newest of what is needed (FLAGS=oldest, FLAGS=newest)"

install: .venv/.installed

DISTRIBUTIONS := dit360-core dit360-attn-flash dit360-attn-xformers dit360-comfy dit360-format-gguf \
    dit360-model-flux2 dit360-model-krea dit360-model-qwen dit360-quant-bnb dit360-sched-ddim

.venv/.installed: constraints.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@echo "==> Installing the workspace into .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(BIN)/python -m pip install --quiet -c constraints.txt $(DISTRIBUTIONS:%=-e ./%)
	@touch $@

.venv/.installed-dev: .venv/.installed pyproject.toml
	@echo "==> Installing the tools for tests and checks"
	@$(BIN)/python -m pip install --quiet -c constraints.txt --group dev
	@touch $@

demo: .venv/.installed
	@echo "==> Making a panorama: $(PROMPT)"
	@mkdir -p outputs
	@$(BIN)/dit360 generate "$(PROMPT)" --seed $(SEED) --output outputs/demo.jpg --force
	@$(BIN)/dit360 view outputs/demo.jpg --output outputs/demo.html --force
	@echo "==> Open outputs/demo.html in a browser and drag to look around"

test: .venv/.installed-dev
	@echo "==> Running the tests"
	@$(PYTEST) -m "not long"

test-long: .venv/.installed-dev
	@echo "==> The tests that take long (five minutes)"
	@$(PYTEST) -m long

test-draws: .venv/.installed-dev
	@echo "==> The tests that draw at random, with as many draws as docs/reliability.md tells of (ten minutes)"
	@DIT360_KILLS=100 DIT360_NAMES=120000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/core/test_batch.py tests/faults/test_paths.py

lint: .venv/.installed-dev
	@echo "==> ruff, mypy, import-linter, links"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/site.py --check

site: .venv/.installed-dev
	@echo "==> The documents as a site: site/index.html"
	@$(BIN)/python -m pip install --quiet -c constraints.txt --group site
	@$(BIN)/python tools/site.py

bench: .venv/.installed-dev
	@echo "==> Measuring start-up, and sampling and decoding against plain diffusers"
	@$(BIN)/python bench/startup.py
	@$(BIN)/python bench/overhead.py

bench-decode: .venv/.installed
	@echo "==> Measuring a FLUX-shaped autoencoder, untiled and in tiles"
	@$(BIN)/python bench/decode.py --sizes 768x384,1024x512,1536x768,2048x1024

bench-attention: .venv/.installed
	@echo "==> Measuring every attention backend"
	@$(BIN)/python bench/attention.py --device $(or $(filter-out auto,$(DEVICE)),cpu)

bench-quantization: .venv/.installed-dev
	@echo "==> Measuring quantizations on a FLUX-shaped transformer and on the embedded model"
	@PYTHONPATH=. $(BIN)/python bench/quantization.py

bench-memory: .venv/.installed-dev
	@echo "==> Predicting memory and measuring it, sixteen combinations"
	@$(BIN)/python bench/prediction.py

bench-phases: .venv/.installed-dev
	@echo "==> Measuring the baseline and every control (an hour)"
	@$(BIN)/python bench/phases.py controls
	@$(BIN)/python bench/phases.py controls --model middle
	@$(BIN)/python bench/phases.py baseline

presets: .venv/.installed-dev
	@$(BIN)/python bench/presets.py

recommended: .venv/.installed-dev
	@echo "==> Measuring what is recommended (five minutes)"
	@$(BIN)/python bench/recommended.py

soak: .venv/.installed-dev
	@echo "==> 200 generations with changing options in one process"
	@OMP_NUM_THREADS=1 $(BIN)/python bench/soak.py

bench-schedulers: .venv/.installed-dev
	@echo "==> Measuring solvers, spacings and consistency on the embedded model"
	@PYTHONPATH=. $(BIN)/python bench/schedulers.py
	@PYTHONPATH=. $(BIN)/python bench/consistency.py

tiling-pictures: .venv/.installed
	@echo "==> Making the pictures of docs/tiling.md"
	@$(BIN)/python docs/tiling_pictures.py

gallery: .venv/.installed
	@echo "==> Painting docs/images/gallery.jpg and the model card's contact sheet"
	@$(BIN)/python docs/gallery.py

train-tiny: .venv/.installed
	@$(BIN)/python -m training.run --minutes $(MINUTES) --device $(DEVICE) $(FLAGS)

eval-tiny: .venv/.installed
	@echo "==> Measuring the embedded model (about 15 minutes on two cores; FLAGS=--quick for the promises alone)"
	@$(BIN)/python -m training.evaluate $(FLAGS)

ablation: .venv/.installed
	@echo "==> Training once with each of DiT360's losses"
	@$(BIN)/python -m training.ablation $(FLAGS)

comfy-pack: .venv/.installed
	@$(BIN)/python dit360-comfy/pack $(FLAGS)

wheels: .venv/.installed-dev
	@echo "==> Building wheels into dist/"
	@$(BIN)/python tools/wheels.py

check-dist: wheels
	@echo "==> Installing and trying every extra of dit360-core"
	@$(BIN)/python tools/check_dist.py $(FLAGS)

test-wheels: wheels
	@echo "==> Running the tests on the wheels"
	@$(BIN)/python tools/check_tests.py $(FLAGS)

check-versions: wheels
	@echo "==> Running the tests with the oldest and the newest versions"
	@$(BIN)/python tools/check_tests.py --versions $(FLAGS)

clean:
	rm -rf .venv dist outputs
