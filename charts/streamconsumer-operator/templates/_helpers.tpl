{{/* The chart's name, shortened to the length of a label. */}}
{{- define "streamconsumer-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimAll "-." }}
{{- end }}

{{/*
The name of every object, which consists of the release name and the chart's name. If the release name contains the
chart's name ("my-streamconsumer-operator"), the result is the release name. If the chart's name starts with the release
name ("streamconsumer"), the result is the chart's name. 53 characters leave room for "-dashboard".
*/}}
{{- define "streamconsumer-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $fullname := printf "%s-%s" .Release.Name $name }}
{{- if contains $name .Release.Name }}
{{- $fullname = .Release.Name }}
{{- else if hasPrefix (printf "%s-" .Release.Name) $name }}
{{- $fullname = $name }}
{{- end }}
{{- .Values.fullnameOverride | default $fullname | trunc 53 | trimAll "-." }}
{{- end }}

{{/* Name of the Service. The name of a Service is a label: at most 63 characters, without a dot, with a letter first. */}}
{{- define "streamconsumer-operator.serviceName" -}}
{{- $fullname := include "streamconsumer-operator.fullname" . | replace "." "-" | trunc 53 | trimSuffix "-" }}
{{- printf "%s%s-metrics" (ternary "" "s-" (regexMatch "^[a-z]" $fullname)) $fullname }}
{{- end }}

{{/*
Rejects null for values without which the release would not work or would be less secure. Helm removes a value that is
null, together with its default.
*/}}
{{- define "streamconsumer-operator.checkValues" -}}
{{- $paths := list "image.repository" "processor.image.repository" "replicaCount" "crds.enabled" "crds.keep" "rbac.create" "admissionPolicy.enabled" "serviceAccount.create" "podDisruptionBudget.enabled" }}
{{- range $path := $paths }}
{{- $value := $.Values }}
{{- range $name := splitList "." $path }}
{{- $value = get ($value | default dict) $name }}
{{- end }}
{{- if or (kindIs "invalid" $value) (eq (toString $value) "") }}
{{- fail (printf "%s: found null, expected a value; to use the default, remove the null from your values" $path) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "streamconsumer-operator.serviceAccountName" -}}
{{- (.Values.serviceAccount).name | default (ternary (include "streamconsumer-operator.fullname" .) "default" ((.Values.serviceAccount).create | default false)) }}
{{- end }}

{{/* Selector of the Deployment. It is immutable, so it contains no other labels. */}}
{{- define "streamconsumer-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "streamconsumer-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of the operator's pods. They exclude the chart's version, so that a new chart version alone does not restart pods. */}}
{{- define "streamconsumer-operator.podLabels" -}}
{{ include "streamconsumer-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: streamconsumer
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "streamconsumer-operator.labels" -}}
{{ include "streamconsumer-operator.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}

{{/* Image reference. Takes a list: the values of the image and its default tag. */}}
{{- define "streamconsumer-operator.image" -}}
{{- $image := first . }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (last .) }}{{ end }}
{{- end }}

{{/* Returns "true" if the release creates this PodMonitor or ServiceMonitor. Takes a list: root, name of the value, kind. */}}
{{- define "streamconsumer-operator.monitors" -}}
{{- $root := index . 0 }}
{{- $value := index . 1 }}
{{- $kind := index . 2 }}
{{- $asked := index $root.Values $value | default dict }}
{{- $there := $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind) }}
{{- if and $asked.enabled (eq $asked.renderMode "failIfMissing") (not $there) }}
{{- fail (printf "%s.enabled: the cluster has no %ss; install the Prometheus Operator first, or set %s.renderMode to skipIfMissing" $value $kind $value) }}
{{- end }}
{{- if and $asked.enabled (or $there (eq $asked.renderMode "alwaysRender")) }}true{{ end }}
{{- end }}

{{/*
Egress rule of a NetworkPolicy for the collector in telemetry.endpoint. The rule allows a port only, because a policy
cannot select a host name.
*/}}
{{- define "streamconsumer-operator.telemetryEgress" -}}
{{- with (.Values.telemetry).endpoint }}
{{- $url := urlParse . }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
- ports:
  - port: {{ $port | default (ternary 443 80 (eq $url.scheme "https")) }}
{{- end }}
{{- end }}
