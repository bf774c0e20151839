"""How well labels can be told from a few numbers of each image."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from ...manifests.errors import UsageError

HIDDEN = 512
LEARNING_RATE = 1e-3
BATCH = 100
FOLDS = 4
NEIGHBOURS = 25


def classify_by_network(
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
    seed: int = 0,
    epochs: int = 20,
) -> float:
    """Top-1 accuracy of a fully connected classifier with one hidden layer, trained on z [N, k] and labels [N]."""
    known, targets = np.unique(train_labels, return_inverse=True)
    inputs, queries = (torch.from_numpy(values).float() for values in standardize(train, test))
    labels = torch.from_numpy(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(train.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(known)))
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                loss = F.cross_entropy(network(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.inference_mode():
        chosen = network(queries).argmax(1).numpy()
    return float((known[chosen] == test_labels).mean())


def classify_linearly(
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
) -> float:
    """Top-1 accuracy of a logistic regression z -> y, as a check on the network."""
    inputs, queries = standardize(train, test)
    return float(LogisticRegression(max_iter=1000).fit(inputs, train_labels).score(queries, test_labels))


def answer_linearly(
    train: NDArray[np.float64], train_labels: NDArray[np.int64], queries: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Labels [Q] that a logistic regression, trained on z [N, k] and labels [N], gives to queries [Q, k]."""
    inputs, asked = standardize(train, queries)
    answers: NDArray[np.int64] = LogisticRegression(max_iter=1000).fit(inputs, train_labels).predict(asked)
    return answers


def standardize(train: NDArray[np.float64], test: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Both in units of the training part's mean and standard deviation, column by column."""
    mean, sd = train.mean(0), train.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    return (train - mean) / sd, (test - mean) / sd


def check_images(class_labels: NDArray[np.int64], columns: int, name: str) -> None:
    """Raise UsageError where `label_accuracy` cannot hold out and learn from so few images of a stream.

    columns: how many numbers of each image the labels are told from, at most.
    """
    labels, counts = np.unique(class_labels, return_counts=True)
    # Quadratic discriminants take more images of each class than there are columns, of those not held out.
    needed = max(FOLDS, -(-(columns + 1) * FOLDS // (FOLDS - 1)))
    if len(labels) < 2 or counts.min() < needed:
        raise UsageError(
            f"{name}: {counts.min()} images of class {labels[counts.argmin()]}, {len(labels)} classes; telling labels "
            f"from {columns} nuisances takes {needed} images of each of 2 classes or more: give larger streams or more "
            "--images"
        )
    learned = len(class_labels) - -(-len(class_labels) // FOLDS)
    if learned < NEIGHBOURS:
        raise UsageError(
            f"{name}: {len(class_labels)} images; telling labels from nuisances takes "
            f"{NEIGHBOURS * FOLDS // (FOLDS - 1) + 1}: give larger streams or more --images"
        )


def label_accuracy(
    nuisances: NDArray[np.float64], class_labels: NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """Cross-validated accuracy of telling the label from nuisances [N, columns]: the best of three, and linear.

    The three: logistic regression, exact where classes differ in their means alone, as in the real pictures; quadratic
    discriminants, where they differ in their spread too; and nearest neighbours, for any other shape. Taking the best
    favours dependence by what three draws of the same chance differ in.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    models = (
        LogisticRegression(max_iter=500),
        # A hundredth of the identity: two nuisances read off few images may be collinear within a class.
        QuadraticDiscriminantAnalysis(reg_param=0.01),
        KNeighborsClassifier(NEIGHBOURS),
    )
    accuracies = [
        accuracy_score(
            class_labels, cross_val_predict(make_pipeline(StandardScaler(), model), nuisances, class_labels, cv=folds)
        )
        for model in models
    ]
    return float(max(accuracies)), float(accuracies[0])
