"""Where retraining requests go, one module each: frozen options with `open()`, which gives a `Sink` of requests.

Argo Events, Jenkins, GitLab and the like need nothing of their own: they take the `webhook`.
"""

from __future__ import annotations

from alerting.targets.airflow import Airflow
from alerting.targets.argo import ArgoWorkflows
from alerting.targets.github import GitHub
from alerting.targets.kafka import RetrainingKafka
from alerting.targets.kubeflow import Kubeflow
from alerting.targets.webhook import RetrainingWebhook

TargetOptions = RetrainingWebhook | RetrainingKafka | ArgoWorkflows | Airflow | Kubeflow | GitHub

TARGETS: dict[str, type[TargetOptions]] = {
    "webhook": RetrainingWebhook,
    "kafka": RetrainingKafka,
    "argo_workflows": ArgoWorkflows,
    "airflow": Airflow,
    "kubeflow": Kubeflow,
    "github": GitHub,
}
