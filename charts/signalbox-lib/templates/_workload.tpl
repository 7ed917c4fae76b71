{{/* The picker's workload and the Services that lead to it. */}}

{{- define "signalbox.workload" -}}
{{- $epp := .Values.router.epp -}}
{{- $mode := include "signalbox.haMode" . -}}
{{- $isPreferred := eq (include "signalbox.isPreferred" .) "true" -}}
apiVersion: apps/v1
kind: {{ if $isPreferred }}StatefulSet{{ else }}Deployment{{ end }}
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    app.kubernetes.io/component: epp
spec:
  {{- if $isPreferred }}
  replicas: {{ include "signalbox.preferredTotal" . }}
  serviceName: {{ include "signalbox.name" . }}
  podManagementPolicy: Parallel
  {{- else }}
  {{- if not $epp.autoscaling.enabled }}
  replicas: {{ int $epp.replicas }}
  {{- end }}
  strategy:
    {{- if $epp.strategy }}
    {{- toYaml $epp.strategy | nindent 4 }}
    {{- else if eq $mode "leader" }}
    # Ready pods cannot be waited for: only the leader is ready, and it leads until it is told to end.
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 100%, maxSurge: 100% }
    {{- else }}
    # The next picker is ready before the last one is told to end: a gateway never finds none.
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
    {{- end }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "signalbox.selectorLabels" . | nindent 6 }}
  template:
    {{- include "signalbox.podTemplate" . | nindent 4 }}
{{- end -}}

{{- define "signalbox.preferredTotal" -}}
{{- $backends := .Values.provider.gke.preferredBackends -}}
{{ add (int $backends.preferredReplicas) (int $backends.defaultReplicas) }}
{{- end -}}

{{/* The Service of a pod of the StatefulSet, by its number: the first carries the picker's own name, the first standby's is what the pool refers to. */}}
{{- define "signalbox.preferredService" -}}
{{- $number := int (index . 1) -}}
{{- $preferred := int (index . 0).Values.provider.gke.preferredBackends.preferredReplicas -}}
{{- $name := include "signalbox.name" (index . 0) -}}
{{- if eq $number 0 }}{{ $name }}
{{- else if lt $number $preferred }}{{ $name }}-preferred-{{ $number }}
{{- else if eq $number $preferred }}{{ $name }}-backup
{{- else }}{{ $name }}-backup-{{ sub $number $preferred }}
{{- end -}}
{{- end -}}

{{- define "signalbox.servicePorts" -}}
- name: grpc-ext-proc
  port: {{ int .Values.router.epp.extProcPort }}
  targetPort: grpc-ext-proc
  appProtocol: kubernetes.io/h2c
- name: http-metrics
  port: {{ int .Values.router.metricsPort }}
  targetPort: http-metrics
  appProtocol: http
{{- if not (and .Values.router.proxy.enabled (eq .Values.router.proxy.mode "service")) }}
{{- with .Values.router.extraServicePorts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "signalbox.services" -}}
{{- if eq (include "signalbox.isPreferred" .) "true" -}}
{{- range $number := untilStep 0 (include "signalbox.preferredTotal" . | int) 1 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.preferredService" (list $ $number) }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "signalbox.labels" $ | nindent 4 }}
    app.kubernetes.io/component: epp
  annotations:
    cloud.google.com/neg: '{"exposed_ports":{"{{ int $.Values.router.epp.extProcPort }}":{}}}'
spec:
  selector:
    statefulset.kubernetes.io/pod-name: {{ include "signalbox.name" $ }}-{{ $number }}
  ports:
    {{- include "signalbox.servicePorts" $ | nindent 4 }}
{{- end }}
{{- else }}
---
# What the pool's endpointPickerRef names. Gateways balance over pods that are ready: with leader election that is the leader.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    app.kubernetes.io/component: epp
spec:
  selector:
    {{- include "signalbox.selectorLabels" . | nindent 4 }}
  ports:
    {{- include "signalbox.servicePorts" . | nindent 4 }}
{{- end }}
{{- if or (include "signalbox.hasPeers" .) (include "signalbox.indexPort" .) }}
---
# Where the pickers find each other: every replica, ready or not, so that one that starts is told what is under way before it decides.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "signalbox.peerService" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
    app.kubernetes.io/component: peers
    {{- if .Values.router.dynamo.enabled }}
    # Its slices say which of Dynamo's participants are ready, pickers among them.
    nvidia.com/dynamo-discovery-backend: kubernetes
    nvidia.com/dynamo-discovery-enabled: "true"
    {{- end }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "signalbox.selectorLabels" . | nindent 4 }}
  ports:
    {{- if include "signalbox.hasPeers" . }}
    - { name: peers, port: {{ int .Values.router.epp.ha.peerPort }}, targetPort: peers }
    {{- end }}
    {{- with include "signalbox.indexPort" . }}
    - { name: index, port: {{ . }} }
    {{- end }}
{{- end }}
{{- end -}}
