{{/* The picker's command line: what the values mean, then router.epp.flags, which wins. */}}

{{/* "leader", "active-active", or "" for a single replica. */}}
{{- define "signalbox.haMode" -}}
{{- $epp := .Values.router.epp -}}
{{- $elects := get $epp.flags "ha-enable-leader-election" -}}
{{- if eq (include "signalbox.isPreferred" .) "true" -}}
{{- else if or (gt (int $epp.replicas) 1) $epp.autoscaling.enabled -}}
{{- if eq (toString $elects) "false" -}}active-active
{{- else if eq (toString $elects) "true" -}}leader
{{- else -}}{{ $epp.ha.mode }}
{{- end -}}
{{- else if eq (toString $elects) "true" -}}leader
{{- end -}}
{{- end -}}

{{/* "true" where replicas tell each other what they know. */}}
{{- define "signalbox.hasPeers" -}}
{{- $mode := include "signalbox.haMode" . -}}
{{- if or (eq $mode "active-active") (and (eq $mode "leader") .Values.router.epp.ha.warmFollowers) -}}true{{- end -}}
{{- end -}}

{{/* Value of a variable in router.epp.env, which is a list or a map; empty where it is not there. */}}
{{- define "signalbox.envValue" -}}
{{- $name := .name -}}
{{- if kindIs "map" .env -}}
{{- with get .env $name }}{{ include "signalbox.text" . }}{{ end -}}
{{- else -}}
{{- range .env }}{{ if eq .name $name }}{{ include "signalbox.text" (.value | default "") }}{{ end }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* As JSON: ports of Dynamo's standalone pickers among themselves, which its variables name. Empty where there are none. */}}
{{- define "signalbox.enginePeerPorts" -}}
{{- $env := .Values.router.epp.env -}}
{{- if include "signalbox.envValue" (dict "env" $env "name" "DYN_EPP_PEER_SERVICE") -}}
{{- $ports := list (include "signalbox.envValue" (dict "env" $env "name" "DYN_EPP_REPLICA_SYNC_PORT") | default "9092" | int) -}}
{{- with include "signalbox.envValue" (dict "env" $env "name" "DYN_EPP_SELECTION_HTTP_PORT") }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- toJson $ports -}}
{{- end -}}
{{- end -}}

{{/* The port where other routers ask for the index, before Dynamo workers with DYN_SERVE_INDEXER; empty where none is served. */}}
{{- define "signalbox.indexPort" -}}
{{- $dynamo := .Values.router.dynamo -}}
{{- $env := .Values.router.epp.env -}}
{{- $serves := get $dynamo.env "DYN_SERVE_INDEXER" | default (include "signalbox.envValue" (dict "env" $env "name" "DYN_SERVE_INDEXER")) -}}
{{- if and $dynamo.enabled (has (toString $serves | lower) (list "1" "true" "on" "yes")) -}}
{{ get $dynamo.env "DYN_TCP_RPC_PORT" | default (include "signalbox.envValue" (dict "env" $env "name" "DYN_TCP_RPC_PORT")) | default "9094" | int }}
{{- end -}}
{{- end -}}

{{/* "true" with GKE's preferred backends: a StatefulSet whose pods are told apart by the load balancer, not by an election. */}}
{{- define "signalbox.isPreferred" -}}
{{- $provider := .Values.provider | default dict -}}
{{- if and (eq ($provider.name | default "none") "gke") (dig "gke" "preferredBackends" "enabled" false $provider) -}}true{{- end -}}
{{- end -}}

{{- define "signalbox.isSecure" -}}
{{- if ne (toString (get .Values.router.epp.flags "secure-serving")) "false" -}}true{{- end -}}
{{- end -}}

{{/* The configuration file's name; "" where the picker writes its own configuration from DYN_* variables. */}}
{{- define "signalbox.configFile" -}}
{{- $isDynamo := or .Values.router.dynamo.enabled (include "signalbox.envValue" (dict "env" .Values.router.epp.env "name" "DYN_EPP_MODE")) -}}
{{- if not (and $isDynamo (eq .Values.router.epp.pluginsConfigFile "default-plugins.yaml") (not (hasKey .Values.router.epp.pluginsCustomConfig "default-plugins.yaml"))) -}}
{{ .Values.router.epp.pluginsConfigFile }}
{{- end -}}
{{- end -}}

{{/* As JSON: flag → value. */}}
{{- define "signalbox.flags" -}}
{{- $epp := .Values.router.epp -}}
{{- $flags := dict -}}
{{- if include "signalbox.servesPool" . -}}
{{- $_ := set $flags "pool-name" (include "signalbox.poolName" .) -}}
{{- $_ := set $flags "pool-namespace" .Release.Namespace -}}
{{- $_ := set $flags "pool-group" (include "signalbox.poolGroup" .) -}}
{{- else -}}
{{- $labels := list -}}
{{- range $key, $value := .Values.router.modelServers.matchLabels }}{{ $labels = append $labels (printf "%s=%v" $key $value) }}{{ end -}}
{{- $ports := list -}}
{{- range .Values.router.modelServers.targetPorts }}{{ $ports = append $ports (include "signalbox.text" .number) }}{{ end -}}
{{- $_ := set $flags "endpoint-selector" (join "," $labels) -}}
{{- $_ := set $flags "endpoint-target-ports" (join "," $ports) -}}
{{- end -}}
{{- with include "signalbox.configFile" . }}{{ $_ := set $flags "config-file" (printf "/config/%s" .) }}{{ end -}}
{{- $_ := set $flags "grpc-port" $epp.extProcPort -}}
{{- $_ := set $flags "grpc-health-port" $epp.grpcHealthPort -}}
{{- $_ := set $flags "metrics-port" .Values.router.metricsPort -}}
{{- $_ := set $flags "zap-encoder" "json" -}}
{{- $_ := set $flags "tracing" .Values.router.tracing.enabled -}}
{{- if not .Values.router.monitoring.prometheus.auth.enabled }}{{ $_ := set $flags "metrics-endpoint-auth" false }}{{ end -}}
{{- if $epp.tls.secretName -}}
{{- $_ := set $flags "cert-path" "/certs" -}}
{{- $_ := set $flags "enable-cert-reload" true -}}
{{- end -}}
{{- if not $epp.events }}{{ $_ := set $flags "pool-events" false }}{{ end -}}
{{- $mode := include "signalbox.haMode" . -}}
{{- if eq $mode "leader" }}{{ $_ := set $flags "ha-enable-leader-election" true }}{{ end -}}
{{- if include "signalbox.hasPeers" . -}}
{{- $_ := set $flags "peer-service" (include "signalbox.peerService" .) -}}
{{- $_ := set $flags "peer-port" $epp.ha.peerPort -}}
{{- if $epp.ha.peerSecretName }}{{ $_ := set $flags "peer-secret-file" "/peer-secret/secret" }}{{ end -}}
{{- end -}}
{{- if .Values.router.proxy.enabled -}}
{{- /* It asks each picker's ext-proc port. */ -}}
{{- if eq .Values.router.proxy.mode "service" }}{{ $_ := set $flags "health-checking" true }}{{ end -}}
{{- if eq .Values.router.proxy.proxyType "agentgateway" }}{{ $_ := set $flags "secure-serving" false }}{{ end -}}
{{- end -}}
{{- range $name, $value := $epp.flags }}{{ $_ := set $flags $name $value }}{{ end -}}
{{- toJson $flags -}}
{{- end -}}

{{/* One argument a flag, in the alphabet's order; a boolean needs the equals sign. */}}
{{- define "signalbox.args" -}}
{{- range $name, $value := include "signalbox.flags" . | fromJson }}
- {{ printf "--%s=%s" $name (include "signalbox.text" $value) | quote }}
{{- end }}
{{- end -}}

{{/* Longer than the picker's whole drain, so that no answer is cut by a kill. */}}
{{- define "signalbox.gracePeriod" -}}
{{- if .Values.router.epp.terminationGracePeriodSeconds -}}
{{ int .Values.router.epp.terminationGracePeriodSeconds }}
{{- else -}}
{{- $flags := .Values.router.epp.flags -}}
{{- $drain := include "signalbox.seconds" (get $flags "drain-timeout" | default "30s") | int -}}
{{- $grace := include "signalbox.seconds" (get $flags "drain-grace" | default "90s") | int -}}
{{ add $drain $grace 10 }}
{{- end -}}
{{- end -}}

{{- define "signalbox.peerService" -}}
{{ include "signalbox.name" . }}-peers
{{- end -}}
