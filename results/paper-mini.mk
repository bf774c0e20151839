# The paper's experiments on the mini world, from nothing to a report: `make paper-mini`. Goes on where it was stopped.
# SEEDS=3 is the short form. JOBS: how many trainings at once, as many as there are cores.

BIN ?= .venv/bin
WORK ?= runs/paper-mini
OUT ?= results/mini
SEEDS ?= 10
JOBS ?= 2

DATA := $(WORK)/data
# Of the analyses and choices; the rows' own are in $(WORK)/train.
TRAIN := $(WORK)/analysed
MINI := $(DATA)/mini

# Whose classifiers are looked into, each with one seed.
ANALYSED := erm genint genint-transfer cgn
# And with which other sources are compared: the row that each one brings.
BROUGHT := gan-augmentation recomposed
BRINGS := observational=gan-augmentation interventional=genint transfer=genint-transfer stylized=stylized \
    counterfactual=cgn recomposed=recomposed

# One at a time from t = 1, k = 20, s = 100 % (figure 6); and ranges by direction, as far as a share of classes is kept.
RANGES := ranges-0.9 ranges-0.75
POINTS := t1-k20-s1 t0.5-k20-s1 t1-k5-s1 t1-k40-s1 t1-k20-s0.5 t1-k20-s2 t1-k20-s3 $(RANGES)
# Interventions that may do better for GenInt than the recipe's: the sweep's best by accuracy.
CANDIDATES := t1-k20-s2 $(RANGES)
# On the validation split alone, with a seed that no row uses: lambda of each term.
LAMBDAS := 0.05 0.2 1.0
CHOICES := $(foreach lambda,$(LAMBDAS),genint-lambda-$(lambda) transfer-lambda-$(lambda)) \
    $(foreach lambda,0.2 1.0 5.0,cgn-lambda-$(lambda) recomposed-lambda-$(lambda)) \
    $(foreach point,$(CANDIDATES),$(LAMBDAS:%=$(point)-lambda-%))

# One thread a process: as many processes as cores do more than threads.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

.PHONY: all rows
# Make would delete them as intermediate.
.SECONDARY:
.DELETE_ON_ERROR:

all: rows $(WORK)/grad-cam.done $(WORK)/sources.done $(WORK)/sweep.done

# Rows and seeds know themselves what of them is there.
rows:
	$(BIN)/python results/paper_mini.py --seeds $(SEEDS) --jobs $(JOBS) --work $(WORK) --out $(OUT)
	$(BIN)/python results/tabulate_mini.py $(OUT)

# Data

$(DATA)/mini/manifest.json $(DATA)/mini-stylized/manifest.json $(DATA)/mini-unconfounded/manifest.json:
	$(BIN)/genint-pipeline build-shards $(notdir $(@D)) --out $(@D)

point = $(subst -, ,$*)
$(DATA)/sweep/%/manifest.json:
	$(BIN)/genint-pipeline build-shards mini-sweep --workers 1 --out $(@D) \
	    --set streams.interventional.truncation=$(patsubst t%,%,$(word 1,$(point))) \
	    --set streams.interventional.num_directions=$(patsubst k%,%,$(word 2,$(point))) \
	    --set streams.interventional.step_scale=$(patsubst s%,%,$(word 3,$(point)))

$(WORK)/interventions.done:
	$(BIN)/python tests/benchmarks/measure_interventions.py --out $(OUT)/interventions
	mkdir -p $(@D)
	touch $@

read_ranges := import json, sys; print(json.load(open(sys.argv[1]))["step_ranges"][sys.argv[2]])
own_ranges = $(BIN)/python -c '$(read_ranges)' $(OUT)/interventions/interventions.json $*
$(DATA)/sweep/ranges-%/manifest.json: $(WORK)/interventions.done
	$(BIN)/genint-pipeline build-shards mini-sweep --workers 1 --out $(@D) \
	    --set streams.interventional.step_ranges="$$($(own_ranges))"

# Training, for the analyses and the choices

OF_MINI := $(ANALYSED) $(BROUGHT)
$(OF_MINI:%=$(TRAIN)/%/done): $(TRAIN)/%/done: $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(MINI) --preset mini-$* --set seed=0 --out $(@D)
	touch $@

$(TRAIN)/stylized/done: $(MINI)/manifest.json $(DATA)/mini-stylized/manifest.json
	$(BIN)/genint-train --shards $(MINI) --shards $(DATA)/mini-stylized --preset mini-stylized --set seed=0 --out $(@D)
	touch $@

# Reads objects whatever the background.
$(TRAIN)/unconfounded/done: $(DATA)/mini-unconfounded/manifest.json
	$(BIN)/genint-train --imagenet $(DATA)/mini-unconfounded:unconfounded --preset mini-erm --validation none \
	    --set seed=0 --out $(@D)
	touch $@

PRESET_genint := genint --lambda-int
PRESET_transfer := genint-transfer --lambda-transfer
PRESET_cgn := cgn --lambda-counterfactual
PRESET_recomposed := recomposed --lambda-counterfactual
choice = $(subst -lambda-, ,$*)
METHODS := genint transfer cgn recomposed
OF_METHODS := $(filter $(METHODS:%=%-lambda-%),$(CHOICES))
$(OF_METHODS:%=$(TRAIN)/choice/%/done): $(TRAIN)/choice/%/done: $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(MINI) --preset mini-$(PRESET_$(firstword $(choice))) $(lastword $(choice)) \
	    --set seed=100 --out $(@D)
	touch $@

# As mini-genint, but for the interventions, which are another dataset's.
train_on_others = $(BIN)/genint-train --imagenet $(MINI):natural --shards $(<D) --streams interventional \
    --validation $(MINI):validation --preset mini-genint

# $* is CANDIDATE-lambda-LAMBDA.
.SECONDEXPANSION:
OF_OTHERS := $(filter-out $(OF_METHODS),$(CHOICES))
$(OF_OTHERS:%=$(TRAIN)/choice/%/done): $(TRAIN)/choice/%/done: $(DATA)/sweep/$$(firstword $$(choice))/manifest.json $(MINI)/manifest.json
	$(train_on_others) --lambda-int $(lastword $(choice)) --set seed=100 --out $(@D)
	touch $@

$(TRAIN)/sweep/%/done: $(DATA)/sweep/%/manifest.json $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(<D) --preset mini-generated --epochs 2 --validation $(MINI):validation \
	    --set seed=100 --out $(@D)
	touch $@

# Measuring: the analyses and the choices each in a folder, for commands that add to one take turns.

# Both measures of dependence, on the training streams and on interventions of other sizes.
SIZES := t1-k20-s0.5 t1-k20-s2 t1-k20-s3 ranges-0.75
DISTRIBUTIONS := $(MINI):natural $(DATA)/mini-stylized:stylized $(MINI):observational $(MINI):interventional \
    $(MINI):transfer $(SIZES:%=$(DATA)/sweep/%:interventional)

$(WORK)/correlation.done: $(MINI)/manifest.json $(DATA)/mini-stylized/manifest.json \
    $(SIZES:%=$(DATA)/sweep/%/manifest.json)
	$(BIN)/genint-evaluate correlation --predictor $(MINI):interventional --test $(MINI):test --out $(OUT)/analyses \
	    $(DISTRIBUTIONS:%=--distribution %)
	touch $@

$(WORK)/nuisances.done: $(WORK)/correlation.done $(DATA)/mini-unconfounded/manifest.json
	$(BIN)/genint-evaluate nuisances --reader $(DATA)/mini-unconfounded:unconfounded --reference $(MINI):natural \
	    --held-out $(MINI):test-shifted --held-out $(MINI):test --out $(OUT)/analyses \
	    $(DISTRIBUTIONS:%=--distribution %)
	touch $@

$(WORK)/grad-cam.done: $(WORK)/nuisances.done $(ANALYSED:%=$(TRAIN)/%/done)
	$(BIN)/genint-evaluate grad-cam --out $(OUT)/analyses --shards $(MINI):test-shifted --shards $(MINI):test \
	    $(foreach row,$(ANALYSED),--checkpoint $(row)=$(TRAIN)/$(row))
	touch $@

$(WORK)/sources.done: $(WORK)/grad-cam.done $(OF_MINI:%=$(TRAIN)/%/done) $(TRAIN)/stylized/done $(TRAIN)/unconfounded/done
	$(BIN)/genint-evaluate run --shards $(MINI):test-background --corruptions 0 --out $(OUT)/analyses \
	    $(foreach row,$(OF_MINI) stylized,--checkpoint $(row)=$(TRAIN)/$(row))
	$(BIN)/genint-evaluate sources --object-reader $(TRAIN)/unconfounded --out $(OUT)/analyses \
	    --reader $(DATA)/mini-unconfounded:unconfounded --reference $(MINI):natural --held-out $(MINI):test-shifted \
	    --distribution $(MINI):natural --distribution $(DATA)/mini-stylized:stylized \
	    $(foreach stream,observational interventional transfer counterfactual recomposed,--distribution $(MINI):$(stream)) \
	    $(foreach pair,$(BRINGS),--brings $(pair))
	touch $@

$(WORK)/lambdas.done: $(CHOICES:%=$(TRAIN)/choice/%/done)
	$(BIN)/genint-evaluate run --shards $(MINI):validation --corruptions 0 --out $(OUT)/choices \
	    $(foreach choice,$(CHOICES),--checkpoint $(choice)=$(TRAIN)/choice/$(choice))
	touch $@

$(WORK)/sweep.done: $(WORK)/lambdas.done $(POINTS:%=$(TRAIN)/sweep/%/done) $(TRAIN)/erm/done
	$(BIN)/genint-evaluate causal-bound --checkpoint $(TRAIN)/erm --queries $(MINI):validation \
	    --dictionary-size 200 --out $(OUT)/choices \
	    $(foreach point,$(POINTS),--shards $(DATA)/sweep/$(point)=$(TRAIN)/sweep/$(point))
	touch $@
