"""Explicit features of a kernel of two scales, made from a memory of images.

With z = (h - c) / |h - c|, c the mean of the memory, the coarse scale has three parts,

    clusters: share of soft partitions in which two images fall together
    graph:    diffusion on the nearest neighbours of the memory (`neighbour_graph`)
    linear:   z' z on the leading axes of the memory

and the fine one is exp((z' z - 1) / length^2). Partitions are k-means of the memory, several with
few and with many centroids: what images have in common at the scale of classes. The fine part
knows images apart. Its features come from landmarks of the memory by a pivoted Cholesky
decomposition (Fine and Scheinberg, "Efficient SVM training using low-rank kernel representations",
JMLR 2001): the Nystrom method (Williams and Seeger, NeurIPS 2001) with landmarks where the kernel
is explained worst.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular

from vitucb.learning.experts.kernel.kmeans import kmeans, squared_distances
from vitucb.learning.experts.kernel.neighbour_graph import NeighbourGraph, fit_graph
from vitucb.types import State

Array = NDArray[np.float64]
_TINY = 1e-12
_CLUSTERED = 1_000
# Cuts of 2,000 images: digits 0.004, MNIST 0.015, Fashion 0.025, CIFAR-10 0.06, emoji 0.13.
_SEPARATED = 0.045
GROUPS = ("clusters", "graph", "linear", "fine")


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """Shape of the kernel.

    Attributes:
        partition_sizes: Centroids of the partitions; at most a third of the images each.
        starts: Partitions of every size.
        softness: Length over which an image belongs to more than one centroid, of |z| = 1.
        neighbours: Nearest images that an image is joined to in the graph.
        axes: Leading axes of the memory in which clusters, graph and linear part live.
        fine_length: Length of the fine kernel, of |z| = 1.
        cluster_rank: Most features of the clusters.
        graph_rank: Most features of the graph.
        fine_rank: Most features of the fine kernel.
        tolerance: Share of a kernel that its features may leave out.
    """

    partition_sizes: tuple[int, ...] = (8, 12, 16, 24, 32)
    starts: int = 2
    softness: float = 0.3
    neighbours: int = 8
    axes: int = 64
    fine_length: float = 0.5
    cluster_rank: int = 96
    graph_rank: int = 40
    fine_rank: int = 48
    tolerance: float = 0.01


class Features(Protocol):
    """Features in groups, the fine one last, whose inner products are the parts of a kernel."""

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Numbers of features of the groups."""
        ...

    @property
    def is_separated(self) -> bool:
        """Whether the memory falls into parts that hardly any neighbours join."""
        ...

    def __call__(self, features: Array) -> Array:
        """Features of all groups (n, m) of rows (n, d) that tell of images."""
        ...

    def state_dict(self) -> State:
        """All attributes."""
        ...

    @classmethod
    def from_state(cls, state: State) -> Features:
        """What `state_dict` described."""
        ...


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """Features of images, in `GROUPS`, whose inner products are the parts of the kernel.

    Attributes:
        center: c, (d,).
        axes: Leading axes, (d, a).
        centroids: Of all partitions one after the other, on the axes, (q, a).
        sizes: Centroids of every partition, int64.
        clusters: Directions of the soft partitions that are kept, (q, p).
        graph: Diffusion on the neighbours of the memory.
        paths: Directions of its features that are kept, (g, p).
        landmarks: Of the fine kernel, (l, d).
        fine: From kernel values at landmarks to features, (l, l).
        softness: See `KernelSettings`.
        fine_length: See `KernelSettings`.
    """

    center: Array
    axes: Array
    centroids: Array
    sizes: NDArray[np.int64]
    clusters: Array
    graph: NeighbourGraph
    paths: Array
    landmarks: Array
    fine: Array
    softness: float
    fine_length: float

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Numbers of features of the groups."""
        parts = (self.clusters, self.paths, self.axes, self.fine)
        return tuple(part.shape[1] for part in parts)

    @property
    def is_separated(self) -> bool:
        """Whether the memory falls into parts that hardly any neighbours join."""
        return self.graph.cut < _SEPARATED

    def __call__(self, features: Array) -> Array:
        """Features of all groups (n, m) of frozen features (n, d)."""
        points = unit_points(features, self.center)
        moved = points @ self.axes
        soft = soft_partitions(moved, self.centroids, self.sizes, self.softness)
        near = np.exp((points @ self.landmarks.T - 1) / self.fine_length**2)
        paths = self.graph(moved) @ self.paths
        return np.concatenate([soft @ self.clusters, paths, moved, near @ self.fine], axis=1)

    def state_dict(self) -> State:
        """All attributes."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: State) -> KernelFeatures:
        """What `state_dict` described."""
        return cls(**{**state, "graph": NeighbourGraph(**state["graph"])})


def fit_kernel(memory: Array, settings: KernelSettings, rng: np.random.Generator) -> KernelFeatures:
    """Kernel features for images like those of `memory` (n, d), n >= 1."""
    center = memory.mean(axis=0)
    points = unit_points(memory, center)
    axes = leading_axes(points, settings.axes)
    # Distances to centroids differ by no more than those within the axes that hold the centroids.
    moved = points @ axes
    # Centroids of a sample serve all.
    sample = moved[rng.permutation(len(moved))[:_CLUSTERED]]
    partitions = [
        kmeans(sample, min(size, max(1, len(sample) // 3)), rng)
        for size in settings.partition_sizes
        for _ in range(settings.starts)
    ]
    centroids, sizes = np.concatenate(partitions), np.array([len(p) for p in partitions])
    soft = soft_partitions(moved, centroids, sizes, settings.softness)
    graph = fit_graph(moved, settings.neighbours, rng)
    landmarks, fine = pivoted_landmarks(
        points, settings.fine_length, settings.fine_rank, settings.tolerance
    )
    return KernelFeatures(
        center=center,
        axes=axes,
        centroids=centroids,
        sizes=sizes,
        clusters=main_directions(soft, settings.cluster_rank, settings.tolerance),
        graph=graph,
        paths=main_directions(graph(moved), settings.graph_rank, settings.tolerance),
        landmarks=landmarks,
        fine=fine,
        softness=settings.softness,
        fine_length=settings.fine_length,
    )


def unit_points(features: Array, center: Array) -> Array:
    """Points z (n, d) of length 1 in the direction of features (n, d) from the center (d,)."""
    moved = features - center
    lengths = np.sqrt(np.square(moved).sum(axis=1, keepdims=True))
    points: Array = moved / np.maximum(lengths, _TINY)
    return points


def soft_partitions(
    moved: Array, centroids: Array, sizes: NDArray[np.int64], softness: float
) -> Array:
    """Shares (n, q) of points (n, a) in the centroids of partitions; each point has length 1."""
    distances = squared_distances(moved, centroids)
    starts = np.cumsum(sizes) - sizes
    nearest = np.minimum.reduceat(distances, starts, axis=1)
    soft = np.exp((np.repeat(nearest, sizes, axis=1) - distances) / (2 * softness**2))
    lengths = np.sqrt(np.add.reduceat(np.square(soft), starts, axis=1) * len(sizes))
    shares: Array = soft / np.repeat(lengths, sizes, axis=1)
    return shares


def leading_axes(points: Array, count: int) -> Array:
    """The axes (d, a) along which points (n, d) are longest, a = min(count, d)."""
    dim = points.shape[1]
    first = max(dim - count, 0)
    _, axes = eigh(points.T @ points, subset_by_index=[first, dim - 1])
    return np.ascontiguousarray(axes[:, ::-1])


def main_directions(raw: Array, rank: int, tolerance: float) -> Array:
    """Directions (q, p) that keep all but `tolerance` of raw features (n, q), p <= rank."""
    if raw.shape[1] == 0:
        return np.zeros((0, 0))
    values, vectors = eigh(raw.T @ raw)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    kept = np.cumsum(values) < (1 - tolerance) * values.sum()
    count = min(int(kept.sum()) + 1, rank)
    return np.ascontiguousarray(vectors[:, :count])


def pivoted_landmarks(
    points: Array, length: float, rank: int, tolerance: float
) -> tuple[Array, Array]:
    """Landmarks (l, d) of points (n, d), and the map (l, l) from kernel values to features.

    Features k(x, landmarks) @ map have the kernel as inner product for x among the landmarks, and
    never more than 1 as their square elsewhere.
    """
    count = min(rank, len(points))
    left = np.ones(len(points))  # the part of k(x, x) = 1 that is not explained yet
    columns = np.zeros((count, len(points)))
    pivots: list[int] = []
    while len(pivots) < count and left.sum() > tolerance * len(points):
        pivot, step = int(left.argmax()), len(pivots)
        column = np.exp((points @ points[pivot] - 1) / length**2)
        column -= columns[:step, pivot] @ columns[:step]
        columns[step] = column / np.sqrt(left[pivot])
        left = np.maximum(left - np.square(columns[step]), 0.0)
        left[pivot] = 0.0
        pivots.append(pivot)
    landmarks = points[pivots]
    factor = np.linalg.cholesky(
        np.exp((landmarks @ landmarks.T - 1) / length**2) + 1e-9 * np.eye(len(pivots))
    )
    return landmarks, solve_triangular(factor, np.eye(len(pivots)), lower=True).T
