"""Fit the trained predictors with scikit-learn, which is optional and slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidur.config import (
    BaseProfiledExecutionTimePredictorConfig,
    LinearRegressionExecutionTimePredictorConfig,
    RandomForrestExecutionTimePredictorConfig,
)
from vidur.execution_time_predictor.profiles import TrainingData
from vidur.execution_time_predictor.tables import FloatArray
from vidur.extras import missing_package

SEED = 0


@dataclass(frozen=True)
class Model:
    """A trained estimator, its best parameters, and its error on the training rows in percent."""

    regressor: Any
    settings: dict[str, Any]
    error: float
    is_forest: bool

    def predict(self, *axes: FloatArray) -> FloatArray:
        """Predict times over the product of the axes, a dimension for each."""
        if not self.is_forest:
            return self._predict_product(axes)
        # A forest is constant between its thresholds: predict once per cell.
        firsts, cells = [], []
        for feature, axis in enumerate(axes):
            first, cell = self._cells(feature, axis)
            firsts.append(axis[first])
            cells.append(cell)
        return self._predict_product(tuple(firsts))[np.ix_(*cells)]

    def _cells(self, feature: int, axis: FloatArray) -> tuple[Any, Any]:
        """Return the first axis point of each occupied cell, and the cell of each point."""
        trees = [estimator.tree_ for estimator in self.regressor.estimators_]
        thresholds = np.unique(np.concatenate([tree.threshold[tree.feature == feature] for tree in trees]))
        # Trees compare features in single precision; a point at a threshold belongs to the lower cell.
        cell = np.searchsorted(thresholds, axis.astype(np.float32).astype(np.float64), side="left")
        _, first, inverse = np.unique(cell, return_index=True, return_inverse=True)
        return first, inverse

    def _predict_product(self, axes: tuple[FloatArray, ...]) -> FloatArray:
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        predicted = self.regressor.predict(points.reshape(-1, len(axes)))
        return np.asarray(predicted, dtype=np.float64).reshape(points.shape[:-1])


@dataclass(frozen=True)
class Estimator:
    """An estimator, and the grid of parameters from which cross-validation selects."""

    config: BaseProfiledExecutionTimePredictorConfig

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything a fit depends on besides its data."""
        return {
            "estimator": self.config.type_name,
            "parameters": _regressor(self.config)[1],
            "folds": self.config.k_fold_cv_splits,
            "seed": SEED,
            "scikit-learn": library_version(),
        }

    def fit(self, data: TrainingData) -> Model:
        """Fit the parameters with the least cross-validated mean absolute percentage error on all rows."""
        from sklearn.metrics import make_scorer
        from sklearn.model_selection import GridSearchCV

        config, rows = self.config, len(data.times)
        regressor, parameters = _regressor(config)
        scorer = make_scorer(mean_absolute_percentage_error, greater_is_better=False)
        search = GridSearchCV(
            estimator=regressor,
            param_grid=parameters,
            scoring=scorer,
            cv=config.k_fold_cv_splits if rows >= config.k_fold_cv_splits else 2,
            n_jobs=config.num_training_job_threads,
        )
        search.fit(data.features, data.times)
        error = mean_absolute_percentage_error(data.times, search.predict(data.features))
        is_forest = isinstance(config, RandomForrestExecutionTimePredictorConfig)
        return Model(search.best_estimator_, dict(search.best_params_), error, is_forest)


def estimator_of(config: BaseProfiledExecutionTimePredictorConfig) -> Estimator:
    """Return the estimator of a configuration. Raises InputError if scikit-learn is not installed."""
    library_version()
    return Estimator(config)


def library_version() -> str:
    try:
        import sklearn
    except ImportError as error:
        raise missing_package("sklearn", "the predictor random_forrest or linear_regression") from error
    return str(sklearn.__version__)


def _regressor(config: BaseProfiledExecutionTimePredictorConfig) -> tuple[Any, dict[str, list[Any]]]:
    if isinstance(config, RandomForrestExecutionTimePredictorConfig):
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(random_state=SEED), {
            "n_estimators": list(config.num_estimators),
            "max_depth": list(config.max_depth),
            "min_samples_split": list(config.min_samples_split),
        }
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    assert isinstance(config, LinearRegressionExecutionTimePredictorConfig)
    return make_pipeline(PolynomialFeatures(), LinearRegression()), {
        "polynomialfeatures__degree": list(config.polynomial_degree),
        "polynomialfeatures__include_bias": list(config.polynomial_include_bias),
        "polynomialfeatures__interaction_only": list(config.polynomial_interaction_only),
        "linearregression__fit_intercept": list(config.fit_intercept),
    }


def mean_absolute_percentage_error(measured: FloatArray, predicted: FloatArray) -> float:
    """Return the error in percent; for a measured 0, 0 if 0 is predicted, else 100, as upstream."""
    measured, predicted = np.asarray(measured, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    is_zero = measured == 0.0
    errors = np.where(predicted == 0.0, 0.0, 100.0)
    errors[~is_zero] = 100.0 * np.abs((predicted[~is_zero] - measured[~is_zero]) / measured[~is_zero])
    return float(errors.mean())
