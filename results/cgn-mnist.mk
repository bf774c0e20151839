# The MNIST table of CGN (Sauer & Geiger 2021) from its official checkpoints, with -j for as many jobs at once as there
# are cores:
#
#     make cgn-mnist MNIST=DIR TEXTURES=DIR CHECKPOINTS=DIR
#
# MNIST: its four idx files. TEXTURES: folders object/ and background/ of the wildlife textures. CHECKPOINTS:
# cgn_colored_MNIST.pth, cgn_double_colored_MNIST.pth and cgn_wildlife_MNIST.pth.
#
# A training leaves OUT/runs/WORLD/ROW/seed-N/results.json and is not made again while that is there, also in a fresh
# checkout where its checkpoint is gone. About an hour of one core each; SEEDS=0 for a first look, which SEEDS="0 1 2"
# then goes on from.

BIN ?= .venv/bin
WORK ?= runs/cgn-mnist
OUT ?= results/cgn-mnist
SEEDS ?= 0 1 2
WORLDS ?= colored double-colored wildlife
ROWS ?= original gan cgn cgn-alone
# Counterfactuals of cgn-alone in the sweep over their number, beside the 100,000 of the rows.
SIZES ?= 10000 1000000
# A million are read once, with a cosine to 0 in place of the decay by epochs: as many steps as ten epochs of 100,000.
epochs = $(if $(filter 1000000,$(size)),--epochs 1 --set schedule=cosine,--epochs 10)
MNIST ?=
TEXTURES ?=
CHECKPOINTS ?=

# One thread a process: as many processes as cores do more than threads.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

.PHONY: all
.SECONDARY:
.DELETE_ON_ERROR:

all: $(OUT)/cgn-mnist.md

# OUT/runs/WORLD/ROW/seed-N/results.json; rows of another number of counterfactuals are cgn-alone-NUMBER.
RESULTS := $(foreach world,$(WORLDS),$(foreach seed,$(SEEDS),\
    $(foreach row,$(ROWS) $(SIZES:%=cgn-alone-%),$(OUT)/runs/$(world)/$(row)/seed-$(seed)/results.json)))
# Only what is not there yet needs data.
MISSING := $(filter-out $(wildcard $(RESULTS)),$(RESULTS))
world = $(word 1,$(subst /, ,$*))
row = $(word 2,$(subst /, ,$*))
seed = $(patsubst seed-%,%,$(word 3,$(subst /, ,$*)))
size = $(patsubst cgn-alone-%,%,$(filter cgn-alone-%,$(row)))
data = $(WORK)/data/$(world)$(if $(size),-$(size))

input_of = $(if $(wildcard $(2)),--input $(1)=$(2),$(error $(1): nothing at '$(2)'; give MNIST=DIR TEXTURES=DIR CHECKPOINTS=DIR))
inputs_of = $(call input_of,mnist,$(MNIST)) \
    $(call input_of,$(1)-mnist-cgn,$(CHECKPOINTS)/cgn_$(subst -,_,$(1))_MNIST.pth) \
    $(if $(filter wildlife,$(1)),$(call input_of,textures,$(TEXTURES)))
# data/WORLD or data/WORLD-NUMBER; ten counterfactuals a mask whatever their number, and a token of what is not trained on.
world_of_data = $(firstword $(foreach world,double-colored colored wildlife,$(if $(filter $(world)%,$*),$(world))))
number_of_data = $(patsubst $(world_of_data)-%,%,$(filter $(world_of_data)-%,$*))
$(WORK)/data/%/manifest.json:
	$(BIN)/genint-pipeline build-shards cgn-$(world_of_data)-mnist --workers 1 --out $(@D) \
	    $(call inputs_of,$(world_of_data)) $(if $(number_of_data),\
	    --set streams.counterfactual.samples_per_class=$$(($(number_of_data) / 10)) \
	    --set streams.counterfactual.bank=$$(($(number_of_data) / 100)) \
	    --set streams.observational.samples_per_class=10 --set streams.observational.bank=1)

.SECONDEXPANSION:
$(MISSING): $(OUT)/runs/%/results.json: $$(data)/manifest.json
	$(BIN)/genint-train --shards $(<D) --preset mnist-cnn-$(if $(size),cgn-alone,$(row)) $(epochs) \
	    --set seed=$(seed) --out $(WORK)/train/$*
	$(BIN)/genint-evaluate run --checkpoint $(row)=$(WORK)/train/$* --shards $(<D):test --corruptions 0 \
	    --group-by visible --out $(WORK)/measured/$*
	mkdir -p $(@D)
	cp $(WORK)/measured/$*/results.json $@

$(OUT)/cgn-mnist.md: $(RESULTS) results/tabulate_cgn_mnist.py
	$(BIN)/python results/tabulate_cgn_mnist.py $(OUT)
