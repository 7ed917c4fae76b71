{{/* What the picker may ask of the API server: the rules of deploy/kubernetes/rbac.yaml, which a test compares. Nothing cluster-wide but reviews. */}}

{{- define "signalbox.rules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- if include "signalbox.servesPool" . }}
- apiGroups: [{{ include "signalbox.poolGroup" . }}]
  resources: [inferencepools]
  verbs: [get, list, watch]
- apiGroups: [llm-d.ai, inference.networking.x-k8s.io]
  resources: [inferenceobjectives, inferencemodelrewrites]
  verbs: [get, list, watch]
{{- end }}
{{- if .Values.router.epp.events }}
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
{{- if eq (include "signalbox.haMode" .) "leader" }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update]
{{- end }}
{{- $isDynamo := and .Values.router.dynamo.enabled (eq .Values.router.dynamo.discoveryBackend "kubernetes") }}
{{- if or $isDynamo (include "signalbox.hasPeers" .) (include "signalbox.enginePeerPorts" .) }}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
{{- if $isDynamo }}
- apiGroups: [nvidia.com]
  resources: [dynamoworkermetadatas]
  # Replicas announce where they tell what they book, and who serves its index where.
  verbs: [get, list, watch{{ if or (include "signalbox.hasPeers" .) (include "signalbox.indexPort" .) }}, create, patch, delete{{ end }}]
{{- end }}
{{- end -}}

{{- define "signalbox.rbac" -}}
{{- if .Values.router.epp.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "signalbox.accountName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
  {{- with .Values.router.epp.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
rules:
  {{- include "signalbox.rules" . | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "signalbox.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ include "signalbox.name" . }} }
subjects:
  - { kind: ServiceAccount, name: {{ include "signalbox.accountName" . }}, namespace: {{ .Release.Namespace }} }
{{- $prometheus := .Values.router.monitoring.prometheus }}
{{- if and $prometheus.enabled $prometheus.auth.enabled }}
---
# Whose token is it, and may they read /metrics?
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "signalbox.clusterName" . }}-metrics-auth
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
rules:
  - apiGroups: [authentication.k8s.io]
    resources: [tokenreviews]
    verbs: [create]
  - apiGroups: [authorization.k8s.io]
    resources: [subjectaccessreviews]
    verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "signalbox.clusterName" . }}-metrics-auth
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ include "signalbox.clusterName" . }}-metrics-auth }
subjects:
  - { kind: ServiceAccount, name: {{ include "signalbox.accountName" . }}, namespace: {{ .Release.Namespace }} }
---
# The scraper's own account: its token reads metrics and nothing else.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "signalbox.name" . }}-metrics-reader
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "signalbox.metricsSecret" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
  annotations:
    kubernetes.io/service-account.name: {{ include "signalbox.name" . }}-metrics-reader
type: kubernetes.io/service-account-token
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "signalbox.clusterName" . }}-metrics-reader
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
rules:
  - nonResourceURLs: [/metrics]
    verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "signalbox.clusterName" . }}-metrics-reader
  labels:
    {{- include "signalbox.labels" . | nindent 4 }}
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ include "signalbox.clusterName" . }}-metrics-reader }
subjects:
  - { kind: ServiceAccount, name: {{ include "signalbox.name" . }}-metrics-reader, namespace: {{ .Release.Namespace }} }
{{- end }}
{{- end -}}

{{/* One per release: a name of all releases, as the reference's is, lets only one of them into a namespace. */}}
{{- define "signalbox.metricsSecret" -}}
{{ .Values.router.monitoring.prometheus.auth.secretName | default (printf "%s-metrics-reader" (include "signalbox.name" .)) }}
{{- end -}}
