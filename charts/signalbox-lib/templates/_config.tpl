{{/* The picker's configuration files: two of ours and the user's, whose name wins. An edit is loaded without a restart once the kubelet has brought it. */}}

{{- define "signalbox.parsers" -}}
{{- $servers := .Values.router.modelServers -}}
{{- if .Values.router.epp.parsers }}{{ toJson .Values.router.epp.parsers }}
{{- else if or (eq $servers.protocol "grpc") (eq $servers.type "triton") }}["passthrough-parser"]
{{- else }}[]
{{- end -}}
{{- end -}}

{{- define "signalbox.defaultConfig" -}}
{{- $parsers := include "signalbox.parsers" . | fromJsonArray -}}
{{- $source := .Values.router.epp.metricsDataSource -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
  - type: metrics-data-source
    parameters:
      scheme: {{ $source.scheme | quote }}
      path: {{ $source.path | quote }}
      insecureSkipVerify: {{ $source.insecureSkipVerify }}
  - type: core-metrics-extractor
{{- if ne .Values.router.modelServers.type "vllm" }}
    parameters:
      defaultEngine: {{ .Values.router.modelServers.type | quote }}
{{- end }}
{{- range $parsers }}
  - type: {{ . }}
{{- end }}
schedulingProfiles:
  - name: default
    plugins:
      - { pluginRef: queue-scorer, weight: 2 }
      - { pluginRef: kv-cache-utilization-scorer, weight: 2 }
      - { pluginRef: prefix-cache-scorer, weight: 3 }
{{- with $parsers }}
requestHandler:
  parsers:
{{- range . }}
    - pluginRef: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Requests of a shape that no parser knows: the least busy server, and a session stays where it was. */}}
{{- define "signalbox.payloadAgnosticConfig" -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: passthrough-parser
  - type: active-request-scorer
  - type: session-affinity-scorer
requestHandler:
  parsers:
    - pluginRef: passthrough-parser
schedulingProfiles:
  - name: default
    plugins:
      - { pluginRef: active-request-scorer, weight: 1 }
      - { pluginRef: session-affinity-scorer, weight: 1 }
{{- end -}}

{{- define "signalbox.configMap" -}}
{{- $files := dict "default-plugins.yaml" (include "signalbox.defaultConfig" .) "payload-agnostic.yaml" (include "signalbox.payloadAgnosticConfig" .) -}}
{{- range $name, $text := .Values.router.epp.pluginsCustomConfig }}{{ $_ := set $files $name $text }}{{ end -}}
{{- $chosen := include "signalbox.configFile" . -}}
{{- if and $chosen (not (hasKey $files $chosen)) -}}
{{- fail (printf "router.epp.pluginsConfigFile is %q, but the files are %s: add it under router.epp.pluginsCustomConfig" $chosen (keys $files | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if $chosen -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
data:
  {{- range $name, $text := $files }}
  {{ $name }}: |
    {{- $text | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
