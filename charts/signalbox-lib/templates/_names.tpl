{{/* Names and labels. Objects are called as the reference's charts call them, so that a release of those and of these is found in the same way. */}}

{{- define "signalbox.name" -}}
{{ .Release.Name | lower | trunc 40 | trimSuffix "-" }}-epp
{{- end -}}

{{- define "signalbox.proxyName" -}}
{{ .Release.Name | lower | trunc 40 | trimSuffix "-" }}-proxy
{{- end -}}

{{/* Cluster-wide objects carry the namespace: two releases of one name may live in two namespaces. */}}
{{- define "signalbox.clusterName" -}}
{{ printf "%s-%s" (.Release.Namespace | trunc 40) (include "signalbox.name" .) }}
{{- end -}}

{{- define "signalbox.accountName" -}}
{{- $account := .Values.router.epp.serviceAccount -}}
{{- if $account.create -}}{{ $account.name | default (include "signalbox.name" .) }}
{{- else -}}{{ $account.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "signalbox.poolName" -}}
{{ .Values.router.inferencePool.name | default .Release.Name }}
{{- end -}}

{{/* "true" where the picker serves an InferencePool, "" where it selects pods by itself. */}}
{{- define "signalbox.servesPool" -}}
{{- if or .Values.router.inferencePool.create .Values.router.inferencePool.name -}}true{{- end -}}
{{- end -}}

{{- define "signalbox.poolGroup" -}}
{{ .Values.router.inferencePool.apiVersion | splitList "/" | first }}
{{- end -}}

{{- define "signalbox.selectorLabels" -}}
app.kubernetes.io/name: signalbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: epp
{{- end -}}

{{- define "signalbox.proxySelectorLabels" -}}
app.kubernetes.io/name: signalbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: proxy
{{- end -}}

{{/* Of every object. The component is told apart by the selector's labels. */}}
{{- define "signalbox.labels" -}}
app.kubernetes.io/name: signalbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "signalbox.image" -}}
{{- $image := .Values.router.epp.image -}}
{{- if $image.registry }}{{ $image.registry }}/{{ end }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* A flag's value as text. Helm reads numbers as floats, and a large one must not become 1e+06. */}}
{{- define "signalbox.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "signalbox.text" .) }}{{ end -}}
{{ join "," $items }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* Whole seconds, rounded up, of a duration such as "90s", "1m30s" or "500ms". */}}
{{- define "signalbox.seconds" -}}
{{- $milliseconds := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" (toString .) -1 -}}
{{- $unit := regexFind "(ms|s|m|h)$" . -}}
{{- $factor := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit -}}
{{- $milliseconds = addf $milliseconds (mulf (trimSuffix $unit . | float64) $factor) -}}
{{- end -}}
{{ divf $milliseconds 1000 | ceil | int }}
{{- end -}}
