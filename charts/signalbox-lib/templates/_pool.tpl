{{/* The InferencePool in either API version, and objectives of it. */}}

{{- define "signalbox.inferencePool" -}}
{{- $pool := .Values.router.inferencePool -}}
{{- $servers := .Values.router.modelServers -}}
{{- if $pool.create -}}
{{- $picker := include "signalbox.name" . -}}
{{- if include "signalbox.isPreferred" . }}{{ $picker = printf "%s-backup" $picker }}{{ end -}}
apiVersion: {{ $pool.apiVersion }}
kind: InferencePool
metadata:
  name: {{ include "signalbox.poolName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
  {{- with $pool.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if eq $pool.apiVersion "inference.networking.x-k8s.io/v1alpha2" }}
  targetPortNumber: {{ int (first $servers.targetPorts).number }}
  selector:
    {{- toYaml $servers.matchLabels | nindent 4 }}
  extensionRef:
    name: {{ $picker }}
    portNumber: {{ int .Values.router.epp.extProcPort }}
    failureMode: {{ $pool.failureMode }}
  {{- else }}
  targetPorts:
    {{- range $servers.targetPorts }}
    - number: {{ int .number }}
    {{- end }}
  appProtocol: {{ eq $servers.protocol "grpc" | ternary "kubernetes.io/h2c" "http" }}
  selector:
    matchLabels:
      {{- toYaml $servers.matchLabels | nindent 6 }}
  endpointPickerRef:
    name: {{ $picker }}
    port:
      number: {{ int .Values.router.epp.extProcPort }}
    failureMode: {{ $pool.failureMode }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Of the group that the cluster has; of the newer one where both are there, or none can be asked for. */}}
{{- define "signalbox.inferenceObjectives" -}}
{{- $older := "inference.networking.x-k8s.io/v1alpha2" -}}
{{- $newer := "llm-d.ai/v1alpha2" -}}
{{- $apis := .Capabilities.APIVersions -}}
{{- $has := or ($apis.Has (printf "%s/InferenceObjective" $newer)) (not ($apis.Has (printf "%s/InferenceObjective" $older))) -}}
{{- range .Values.router.inferenceObjectives }}
---
apiVersion: {{ $has | ternary $newer $older }}
kind: InferenceObjective
metadata:
  name: {{ .name }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "signalbox.labels" $ | nindent 4 }}
spec:
  priority: {{ int .priority }}
  poolRef:
    group: {{ include "signalbox.poolGroup" $ }}
    kind: InferencePool
    name: {{ include "signalbox.poolName" $ }}
{{- end }}
{{- end -}}
