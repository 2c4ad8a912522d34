{{- define "teamtoken.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "teamtoken.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "teamtoken.name" .) }}
{{- end }}

{{- define "teamtoken.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "teamtoken.labels" -}}
{{ include "teamtoken.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What is wrong with the values, and which one to change: the schema can't say it. */}}
{{- define "teamtoken.check" -}}
{{- $several := or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled }}
{{- if and $several (eq .Values.state.url "memory") }}{{ fail "several replicas would know nothing of each other's changes: set state.url to a Redis, or replicas to 1 and autoscaling.enabled to false" }}{{ end }}
{{- if and (ne .Values.state.url "memory") (not .Values.state.keySecret.name) }}{{ fail "state.url is a Redis, which is given nothing that is not sealed: set state.keySecret.name" }}{{ end }}
{{- if and (eq .Values.credentials "service") (not .Values.upstream.credentialSecret.name) }}{{ fail "no credential for the upstream: set upstream.credentialSecret.name, or credentials to caller" }}{{ end }}
{{- if and (eq .Values.credentials "caller") .Values.upstream.credentialSecret.name }}{{ fail "credentials is caller, so that upstream.credentialSecret would never be used: leave it out" }}{{ end }}
{{- $policies := add (ternary 1 0 (not (empty .Values.policy))) (ternary 1 0 (not (empty .Values.policyConfigMap.name))) (ternary 1 0 .Values.insecureAllowAnyCaller) }}
{{- if gt $policies 1 }}{{ fail "policy, policyConfigMap.name and insecureAllowAnyCaller exclude each other: set one" }}{{ end }}
{{- if and (eq .Values.credentials "service") (lt $policies 1) }}{{ fail "nothing says who may use the service's credential: set policy, policyConfigMap.name or insecureAllowAnyCaller" }}{{ end }}
{{- if and .Values.tls.clientCASecret.name (not .Values.tls.secretName) }}{{ fail "tls.clientCASecret needs tls.secretName" }}{{ end }}
{{- end }}

{{/* The files that are mounted: what for, from where. Never by subPath, which would not follow a change. */}}
{{- define "teamtoken.files" -}}
{{- $v := .Values }}
{{- $files := list }}
{{- $files = append $files (dict "name" "credential" "secret" $v.upstream.credentialSecret.name "key" $v.upstream.credentialSecret.key "setting" "tfe-token-file") }}
{{- $files = append $files (dict "name" "upstream-ca" "secret" $v.upstream.caSecret.name "key" $v.upstream.caSecret.key "setting" "tfe-ca-file") }}
{{- $files = append $files (dict "name" "state-key" "secret" $v.state.keySecret.name "key" $v.state.keySecret.key "setting" "state-key-file") }}
{{- $files = append $files (dict "name" "state-password" "secret" $v.state.passwordSecret.name "key" $v.state.passwordSecret.key "setting" "state-password-file") }}
{{- $files = append $files (dict "name" "state-ca" "secret" $v.state.caSecret.name "key" $v.state.caSecret.key "setting" "state-ca-file") }}
{{- $files = append $files (dict "name" "state-tls" "secret" $v.state.tlsSecret.name "key" "tls.crt" "setting" "state-tls-cert-file") }}
{{- $files = append $files (dict "name" "tls" "secret" $v.tls.secretName "key" "tls.crt" "setting" "tls-cert-file") }}
{{- $files = append $files (dict "name" "client-ca" "secret" $v.tls.clientCASecret.name "key" $v.tls.clientCASecret.key "setting" "tls-client-ca-file") }}
{{- $kept := list }}
{{- range $files }}{{ if .secret }}{{ $kept = append $kept . }}{{ end }}{{ end }}
{{- $kept | toJson }}
{{- end }}

{{/* The YAML file of settings. */}}
{{- define "teamtoken.settings" -}}
{{- $s := dict "tfe-address" .Values.upstream.address "credentials" .Values.credentials "admin-address" ":9464" }}
{{- $_ := set $s "shutdown-delay" (printf "%ds" (int .Values.shutdownDelaySeconds)) }}
{{- range include "teamtoken.files" . | fromJsonArray }}{{ $_ := set $s .setting (printf "/etc/teamtoken/%s/%s" .name .key) }}{{ end }}
{{- if .Values.tls.secretName }}{{ $_ := set $s "tls-key-file" "/etc/teamtoken/tls/tls.key" }}{{ end }}
{{- if .Values.state.tlsSecret.name }}{{ $_ := set $s "state-tls-key-file" "/etc/teamtoken/state-tls/tls.key" }}{{ end }}
{{- if .Values.policyConfigMap.name }}{{ $_ := set $s "policy-file" (printf "/etc/teamtoken/policy/%s" .Values.policyConfigMap.key) }}{{ end }}
{{- if .Values.policy }}{{ $_ := set $s "policy-file" "/etc/teamtoken/policy/policy.yaml" }}{{ end }}
{{- if .Values.insecureAllowAnyCaller }}{{ $_ := set $s "insecure-allow-any-caller" true }}{{ end }}
{{- if ne .Values.mesh.kind "none" }}{{ $_ := set $s "mesh" .Values.mesh.kind }}{{ end }}
{{- if .Values.mesh.peers }}{{ $_ := set $s "mesh-peers" (join "," .Values.mesh.peers) }}{{ end }}
{{- mergeOverwrite $s .Values.settings | toYaml }}
{{- end }}
