# How each method fares as the class explains more of the nuisances: `make confounding-sweep`, with -j for as many jobs at
# once as there are cores. A generator, a dataset and trainings for each confounding strength a. Goes on where it was
# stopped. About three hours of one core, half of it for the generators.

BIN ?= .venv/bin
WORK ?= runs/confounding
OUT ?= results/confounding
SEEDS ?= 0 1
STRENGTHS ?= 0 0.5 0.8 0.9 0.95
# From the shipped generator (a = 0.8), for fresh weights need 5,000; at a = 0.8 the shipped one itself.
STEPS ?= 600

ROWS := erm gan-augmentation genint genint-transfer
# No method but an explanation, at one strength: genint with images of the generator that was fitted at a = 0.
rows_of = $(ROWS) $(if $(filter 0.8,$(1)),genint-free-generator)
runs_of = $(foreach seed,$(SEEDS),$(foreach row,$(call rows_of,$(1)),$(WORK)/$(1)/train/$(row)/seed-$(seed)/done))
RUNS := $(foreach a,$(STRENGTHS),$(call runs_of,$(a)))

export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

.PHONY: all
.SECONDARY:
.DELETE_ON_ERROR:

all: $(OUT)/confounding.svg

$(WORK)/%/generator/report.json:
	$(BIN)/genint-pipeline fit-generator --confounding $* --start mini --steps $(STEPS) --out $(@D)

$(WORK)/0.8/generator/report.json:
	mkdir -p $(dir $(@D))
	cp -r pipeline/data/mini-generator $(@D)

# Natural, validation and test pictures under strength a; the shifted tests stay free of the class.
natural_streams := natural validation test
$(WORK)/%/data/manifest.json: $(WORK)/%/generator/report.json
	$(BIN)/genint-pipeline build-shards mini --workers 1 --out $(@D) --weights $(<D) \
	    $(foreach stream,$(natural_streams),$(foreach group,background pose,\
	    --set streams.$(stream).$(group)_confounding=$*))

# WORK/A/train/ROW/seed-N/done
.SECONDEXPANSION:
strength = $(word 1,$(subst /, ,$*))
row = $(word 3,$(subst /, ,$*))
seed = $(patsubst seed-%,%,$(word 4,$(subst /, ,$*)))
images_of_row = --shards $(<D) --preset mini-$(row)
images_of_free_generator = --imagenet $(<D):natural --validation $(<D):validation --shards $(WORK)/0/data \
    --streams interventional --preset mini-genint
others = $(if $(filter %-free-generator,$(row)),$(WORK)/0/data/manifest.json)
$(RUNS): $(WORK)/%/done: $(WORK)/$$(strength)/data/manifest.json $$(others)
	$(BIN)/genint-train $(if $(filter %-free-generator,$(row)),$(images_of_free_generator),$(images_of_row)) \
	    --set seed=$(seed) --out $(@D)
	touch $@

checkpoints = $(foreach row,$(call rows_of,$*),$(SEEDS:%=--checkpoint $(row)=$(WORK)/$*/train/$(row)/seed-%))
MEASURED := $(STRENGTHS:%=$(OUT)/%/results.json)
$(MEASURED): $(OUT)/%/results.json: $$(call runs_of,$$*)
	$(BIN)/genint-evaluate run $(checkpoints) --shards $(WORK)/$*/data --corruptions 0 --out $(@D)

$(OUT)/confounding.svg: $(MEASURED) results/plot_confounding.py
	$(BIN)/python results/plot_confounding.py $(OUT) $(STRENGTHS)
