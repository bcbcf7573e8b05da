"""What programs with numpy, pandas, scikit-learn and joblib do, one function for each thing.

Nothing here knows of Clutch. As a script it prints what came of each as a line of JSON: what a
pool has to answer, too. Every result is the same each time.
"""

import json
import multiprocessing
import os
import tempfile
import time
import traceback
from multiprocessing import shared_memory

import joblib
import numpy
import threadpoolctl

# pandas and scikit-learn are imported where they are used: a process that is spawned imports this
# module anew, and those two take seconds.

BOUND_S = 120


def square(x):
    """What a process of a pool does."""
    return x * x


def fail(x):
    """What a process of a pool may do as well."""
    raise ValueError("on purpose: %s" % x)


def joblib_parallel(backend):
    """`joblib.Parallel`: calls, an exception, what else a process was told."""
    parallel = joblib.Parallel(n_jobs=2, backend=backend)
    found = [parallel(joblib.delayed(square)(x) for x in range(6))]
    try:
        parallel(joblib.delayed(fail)(x) for x in range(1))
    except ValueError as error:
        found.append(str(error))
    return found


def joblib_arrays(backend):
    """`joblib.Parallel` with an array so large that it is mapped from a file."""
    data = numpy.arange(300_000, dtype="f8")
    parallel = joblib.Parallel(n_jobs=2, backend=backend, max_nbytes="1M")
    sums = parallel(joblib.delayed(numpy.sum)(data * 1.0) for _ in range(3))
    sums += parallel(joblib.delayed(_sum_of)(data, part) for part in range(2))
    return [float(one) for one in sums]


def _sum_of(data, part):
    return data[part::2].sum()


def joblib_closures():
    """`joblib.Parallel` with loky: a function that has no name to find it by."""
    offset = 10
    return joblib.Parallel(n_jobs=2)(joblib.delayed(lambda x: x + offset)(x) for x in range(3))


def joblib_memory():
    """`joblib.Memory`: a result that is kept in files."""
    with tempfile.TemporaryDirectory() as folder:
        count = []
        memory = joblib.Memory(folder, verbose=0)
        cached = memory.cache(lambda x: count.append(x) or numpy.ones(3) * x)
        return [cached(2).tolist(), cached(2).tolist(), count]


def numpy_algebra():
    """`numpy`: random numbers, products, a decomposition, a file that is mapped."""
    random = numpy.random.default_rng(42)
    matrix = random.normal(size=(300, 300))
    product = matrix @ matrix.T
    values = numpy.linalg.eigvalsh(product)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.npy")
        numpy.save(path, matrix)
        same = bool((numpy.load(path, mmap_mode="r") == matrix).all())
    return [round(float(values[0]), 4), round(float(values[-1]), 6), same]


def numpy_threads():
    """How many threads the linear algebra of `numpy` uses, and that all of them work."""
    numpy.ones((600, 600)) @ numpy.ones((600, 600))
    pools = threadpoolctl.threadpool_info()
    with threadpoolctl.threadpool_limits(1):
        limited = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return [sorted([pool["user_api"], pool["num_threads"]] for pool in pools), limited]


def numpy_in_processes(method):
    """`numpy` in processes that `multiprocessing` starts: arrays there and back."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        parts = pool.map(_matrix, range(4))
    return [float(part.sum()) for part in parts]


def _matrix(seed):
    return numpy.full((50, 50), seed) @ numpy.eye(50)


def pandas_frames():
    """`pandas`: files, groups, joins, dates."""
    import pandas

    frame = pandas.DataFrame({"k": list("abab"), "n": [1, 2, 3, 4]})
    frame["when"] = pandas.date_range("2024-02-28", periods=4, freq="D")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "frame.csv")
        frame.to_csv(path, index=False)
        again = pandas.read_csv(path, parse_dates=["when"])
        again.to_pickle(path)
        again = pandas.read_pickle(path)
    sums = again.groupby("k")["n"].sum()
    joined = again.merge(sums.rename("total"), on="k")
    days = again["when"].dt.strftime("%d.%m.").tolist()
    return [sums.to_dict(), joined["total"].tolist(), days, again.equals(frame)]


def sklearn_jobs():
    """scikit-learn with `n_jobs=2`: a forest, cross validation, a search, by loky and threads."""
    import sklearn.datasets
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.model_selection
    import sklearn.pipeline
    import sklearn.preprocessing

    data, target = sklearn.datasets.load_iris(return_X_y=True)
    forest = sklearn.ensemble.RandomForestClassifier(20, n_jobs=2, random_state=0)
    found = [round(float(forest.fit(data, target).score(data, target)), 6)]
    line = sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(), sklearn.linear_model.LogisticRegression()
    )
    scores = sklearn.model_selection.cross_val_score(line, data, target, cv=4, n_jobs=2)
    found.append([round(float(score), 6) for score in scores])
    grid = {"logisticregression__C": [0.1, 1.0]}
    search = sklearn.model_selection.GridSearchCV(line, grid, n_jobs=2, cv=3)
    found.append(search.fit(data, target).best_params_)
    return found


def sklearn_by_multiprocessing():
    """scikit-learn with `n_jobs=2` by joblib's `multiprocessing`."""
    import sklearn.datasets
    import sklearn.linear_model
    import sklearn.model_selection

    data, target = sklearn.datasets.load_iris(return_X_y=True)
    model = sklearn.linear_model.LogisticRegression(max_iter=500)
    with joblib.parallel_backend("multiprocessing"):
        scores = sklearn.model_selection.cross_val_score(model, data, target, cv=4, n_jobs=2)
    return [round(float(score), 6) for score in scores]


ROWS, COLUMNS, BATCH = 64, 16, 8


def _load(name, tasks, done):
    """A worker of the data loader: fills batches of the shared array."""
    block = shared_memory.SharedMemory(name)
    array = numpy.ndarray((ROWS, COLUMNS), "f4", block.buf)
    while True:
        index = tasks.get(timeout=BOUND_S)
        if index is None:
            break
        random = numpy.random.default_rng(index)
        array[index * BATCH : (index + 1) * BATCH] = random.integers(0, 9, (BATCH, COLUMNS))
        done.put(index)
    del array
    block.close()


def data_loader(method):
    """A pipeline like a DataLoader: processes with queues fill one shared array, batch by batch."""
    context = multiprocessing.get_context(method)
    block = shared_memory.SharedMemory(create=True, size=ROWS * COLUMNS * 4)
    tasks, done = context.Queue(), context.Queue(4)
    args = (block.name, tasks, done)
    loaders = [context.Process(target=_load, args=args, daemon=True) for _ in range(2)]
    try:
        for loader in loaders:
            loader.start()
        for index in [*range(ROWS // BATCH), None, None]:
            tasks.put(index)
        array = numpy.ndarray((ROWS, COLUMNS), "f4", block.buf)
        means = {}
        for _ in range(ROWS // BATCH):
            index = done.get(timeout=BOUND_S)
            means[index] = float(array[index * BATCH : (index + 1) * BATCH].mean())
        for loader in loaders:
            loader.join(BOUND_S)
        del array
        return [[means[index] for index in sorted(means)], [one.exitcode for one in loaders]]
    finally:
        block.close()
        block.unlink()


METHODS = ("fork", "spawn", "forkserver")
# Which check stands in which row of docs/COMPATIBILITY.md; whether it is tried in a script, too.
CHECKS = (
    [("joblib", f, (b,), True) for f in (joblib_parallel, joblib_arrays) for b in ("loky",)]
    + [("joblib", joblib_parallel, (b,), True) for b in ("multiprocessing", "threading")]
    + [("joblib", joblib_arrays, ("multiprocessing",), False)]
    + [("joblib", joblib_closures, (), True), ("joblib", joblib_memory, (), False)]
    + [("numpy", numpy_algebra, (), False), ("numpy", numpy_threads, (), False)]
    + [("numpy", numpy_in_processes, (method,), True) for method in METHODS]
    + [("pandas", pandas_frames, (), False)]
    + [("scikit-learn", sklearn_jobs, (), True)]
    + [("scikit-learn", sklearn_by_multiprocessing, (), False)]
    + [("a data loader", data_loader, (method,), True) for method in METHODS]
)

if __name__ == "__main__":
    for group, function, args, in_script in CHECKS:
        line = {"group": group, "what": function.__doc__.strip(), "script": in_script}
        line.update(function=function.__name__, args=list(args))
        begun = time.monotonic()
        try:
            line["result"] = function(*args)
        except Exception as error:
            line["raised"] = type(error).__name__
            traceback.print_exc()
        line["took"] = round(time.monotonic() - begun, 3)
        print(json.dumps(line), flush=True)
