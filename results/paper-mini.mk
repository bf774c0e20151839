# The paper's experiments on the mini world, from nothing to a report: `make paper-mini`, with -j for as many trainings
# at once as there are cores. Goes on where it was stopped. About 80 CPU minutes of training; the rest takes 50.

BIN ?= .venv/bin
WORK ?= runs/paper-mini
OUT ?= results/mini
SEEDS ?= 0 1 2

DATA := $(WORK)/data
TRAIN := $(WORK)/train
MINI := $(DATA)/mini

# Rows of tables 1 and 2, and the two of table 4. Presets are mini-ROW.
ROWS := erm mixup autoaugment stylized gan-augmentation genint genint-transfer
GENERATED := observational interventional
PRESET_ROWS := $(ROWS) $(GENERATED:%=generated-%)
# And genint with the interventions that the sweep below chose, by causal bound and by accuracy of training on them alone,
# and with the lambda that validation chose for them.
CHOSEN := ranges-0.9
CHOSEN_LAMBDA := 0.05
ALL_ROWS := $(PRESET_ROWS) genint-chosen
# Seed by seed, so that what is stopped early has all rows.
RUNS := $(foreach seed,$(SEEDS),$(PRESET_ROWS:%=$(TRAIN)/%/seed-$(seed)))

# One at a time from t = 1, k = 20, s = 100 % (figure 6); and ranges by direction, as far as a share of classes is kept.
RANGES := ranges-0.9 ranges-0.75
POINTS := t1-k20-s1 t0.5-k20-s1 t1-k5-s1 t1-k40-s1 t1-k20-s0.5 t1-k20-s2 t1-k20-s3 $(RANGES)
# Interventions that may do better for GenInt than the recipe's: the sweep's best by accuracy.
CANDIDATES := t1-k20-s2 $(RANGES)
# On the validation split alone, with a seed that no row uses: lambda of the interventions, and of the transfers.
LAMBDAS := 0.05 0.2 1.0
CHOICES := $(LAMBDAS:%=genint-lambda-%) $(LAMBDAS:%=transfer-lambda-%) \
    $(foreach point,$(CANDIDATES),$(LAMBDAS:%=$(point)-lambda-%))

# One thread a process: as many processes as cores do more than threads.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

checkpoints = $(foreach row,$(1),$(SEEDS:%=--checkpoint $(row)=$(TRAIN)/$(row)/seed-%))

.PHONY: all
# Make would delete them as intermediate.
.SECONDARY:
.DELETE_ON_ERROR:

all: $(WORK)/run.done $(WORK)/grad-cam.done $(WORK)/sweep.done

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

# Training: TRAIN/ROW/seed-N, and what the choices need

run_row = $(patsubst $(TRAIN)/%/,%,$(dir $(@D)))
run_seed = $(patsubst seed-%,%,$(notdir $(@D)))
# Equal steps: the observational stream is the smaller one, and an epoch of either is as long as it.
GENERATED_PRESET := --preset mini-generated --epochs 6 --set images_per_epoch=4000 --set decay_epochs=[4]
ROW_STREAMS_generated-observational := $(GENERATED_PRESET) --streams observational
ROW_STREAMS_generated-interventional := $(GENERATED_PRESET) --streams interventional
run_preset = $(or $(ROW_STREAMS_$(run_row)),--preset mini-$(run_row))

$(RUNS:%=%/done): $(MINI)/manifest.json $(DATA)/mini-stylized/manifest.json
	$(BIN)/genint-train --shards $(MINI) $(if $(filter stylized,$(run_row)),--shards $(DATA)/mini-stylized) \
	    $(run_preset) --set seed=$(run_seed) --out $(@D)
	touch $@

$(TRAIN)/choice/genint-lambda-%/done: $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(MINI) --preset mini-genint --lambda-int $* --set seed=100 --out $(@D)
	touch $@

$(TRAIN)/choice/transfer-lambda-%/done: $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(MINI) --preset mini-genint-transfer --lambda-transfer $* --set seed=100 --out $(@D)
	touch $@

# As mini-genint, but for the interventions, which are another dataset's.
train_on_others = $(BIN)/genint-train --imagenet $(MINI):natural --shards $(<D) --streams interventional \
    --validation $(MINI):validation --preset mini-genint

# $* is CANDIDATE-lambda-LAMBDA.
.SECONDEXPANSION:
choice = $(subst -lambda-, ,$*)
$(TRAIN)/choice/%/done: $(DATA)/sweep/$$(firstword $$(choice))/manifest.json $(MINI)/manifest.json
	$(train_on_others) --lambda-int $(lastword $(choice)) --set seed=100 --out $(@D)
	touch $@

$(TRAIN)/genint-chosen/seed-%/done: $(DATA)/sweep/$(CHOSEN)/manifest.json $(MINI)/manifest.json
	$(train_on_others) --lambda-int $(CHOSEN_LAMBDA) --set seed=$* --out $(@D)
	touch $@

$(TRAIN)/sweep/%/done: $(DATA)/sweep/%/manifest.json $(MINI)/manifest.json
	$(BIN)/genint-train --shards $(<D) --preset mini-generated --epochs 2 --validation $(MINI):validation \
	    --set seed=100 --out $(@D)
	touch $@

# Measuring: the tables, the analyses and the choices each in a folder, for commands that add to one take turns.

$(WORK)/run.done: $(RUNS:%=%/done) $(SEEDS:%=$(TRAIN)/genint-chosen/seed-%/done)
	$(BIN)/genint-evaluate run $(call checkpoints,$(ALL_ROWS)) --shards $(MINI) --corruptions 5 --workers 1 \
	    --out $(OUT)/tables
	touch $@

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

$(WORK)/grad-cam.done: $(WORK)/nuisances.done $(foreach row,erm genint genint-transfer,$(TRAIN)/$(row)/seed-0/done)
	$(BIN)/genint-evaluate grad-cam --out $(OUT)/analyses --shards $(MINI):test-shifted --shards $(MINI):test \
	    $(foreach row,erm genint genint-transfer,--checkpoint $(row)=$(TRAIN)/$(row)/seed-0)
	touch $@

$(WORK)/lambdas.done: $(CHOICES:%=$(TRAIN)/choice/%/done)
	$(BIN)/genint-evaluate run --shards $(MINI):validation --corruptions 0 --out $(OUT)/choices \
	    $(foreach choice,$(CHOICES),--checkpoint $(choice)=$(TRAIN)/choice/$(choice))
	touch $@

$(WORK)/sweep.done: $(WORK)/lambdas.done $(POINTS:%=$(TRAIN)/sweep/%/done) $(TRAIN)/erm/seed-0/done
	$(BIN)/genint-evaluate causal-bound --checkpoint $(TRAIN)/erm/seed-0 --queries $(MINI):validation \
	    --dictionary-size 200 --out $(OUT)/choices \
	    $(foreach point,$(POINTS),--shards $(DATA)/sweep/$(point)=$(TRAIN)/sweep/$(point))
	touch $@
