"""Chart values that set each optional value."""

from tests.charts.rendering import Manifest

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
ALL_VALUES: Manifest = {
    "global": {"anything": "goes"},
    "enabled": True,
    "image": {"registry": "registry.example.com:5000/mirror", "tag": "1.2.3", "pullPolicy": "Always"},
    "processor": {
        "image": {"digest": DIGEST, "pullPolicy": "Never"},
        "networkPolicy": {"enabled": True, "namespaces": ["shop"], "from": [{"podSelector": {}}]},
    },
    "imagePullSecrets": [{"name": "registry"}],
    "watchNamespaces": ["shop", "billing"],
    "rbac": {"secretNamespaces": ["shop"]},
    "allowedDestinations": ["127.0.0.0/8", "fe80::/10"],
    "telemetry": {"endpoint": "http://collector:4318"},
    "logLevel": "DEBUG",
    "serviceAccount": {"name": "runner", "annotations": {"team": "platform"}, "labels": {"team": "streams"}},
    "podAnnotations": {"note": "yes"},
    "podLabels": {"cost": "42"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "extraEnv": [{"name": "STREAMCONSUMER_OPERATOR_STREAM_INTERVAL", "value": "30s"}],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/authorities"}],
    "hostUsers": False,
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}], "egress": [{"ports": [{"port": 443}]}]},
    "podDisruptionBudget": {"enabled": True},
    "podMonitor": {"enabled": True, "renderMode": "alwaysRender", "interval": "30s", "labels": {"release": "kps"}},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}},
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Chart.Name }}-extra\n",
    ],
    "test": {"redisUrlSecret": {"name": "redis", "key": "url"}, "seconds": 60},
    "commonLabels": {"owner": "platform"},
}
