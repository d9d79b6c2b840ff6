{{/* The chart's name, fit for a label. */}}
{{- define "streamconsumer-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
The name of every object. A release that already says what it is ("streamconsumer",
"my-streamconsumer-operator") does not say it twice. 58 characters leave room for "-view" and "-edit".
*/}}
{{- define "streamconsumer-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $fullname := printf "%s-%s" .Release.Name $name }}
{{- if contains $name .Release.Name }}
{{- $fullname = .Release.Name }}
{{- else if hasPrefix (printf "%s-" .Release.Name) $name }}
{{- $fullname = $name }}
{{- end }}
{{- .Values.fullnameOverride | default $fullname | trunc 58 | trimSuffix "-" }}
{{- end }}

{{- define "streamconsumer-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "streamconsumer-operator.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* What the Deployment finds its pods by: never changes, so it holds nothing else. */}}
{{- define "streamconsumer-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "streamconsumer-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What a pod carries: nothing that changes with the chart alone, which would restart it. */}}
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
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The reference of an image, from a list of its values and the tag it has by default. */}}
{{- define "streamconsumer-operator.image" -}}
{{- $image := first . }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (last .) }}{{ end }}
{{- end }}

{{/* Whether a kind of the Prometheus Operator's is to be made, from the root, the value that asks for it, and the kind. */}}
{{- define "streamconsumer-operator.monitors" -}}
{{- $root := index . 0 }}
{{- $value := index . 1 }}
{{- $kind := index . 2 }}
{{- $asked := index $root.Values $value }}
{{- $there := $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind) }}
{{- if and $asked.enabled (eq $asked.renderMode "failIfMissing") (not $there) }}
{{- fail (printf "%s.enabled: the cluster has no %ss; install the Prometheus Operator first, or set %s.renderMode to skipIfMissing" $value $kind $value) }}
{{- end }}
{{- if and $asked.enabled (or $there (eq $asked.renderMode "alwaysRender")) }}true{{ end }}
{{- end }}

{{/*
A rule of a NetworkPolicy's egress that lets out to the collector, where one is named: to its port, since its address is
nothing that a policy could name.
*/}}
{{- define "streamconsumer-operator.telemetryEgress" -}}
{{- with .Values.telemetry.endpoint }}
{{- $url := urlParse . }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
- ports:
  - port: {{ $port | default (ternary 443 80 (eq $url.scheme "https")) }}
{{- end }}
{{- end }}
