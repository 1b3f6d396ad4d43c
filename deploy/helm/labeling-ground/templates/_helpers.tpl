{{- define "lg.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "labeling-ground" $name) }}{{ $name = printf "%s-labeling-ground" $name }}{{ end -}}
{{- $name | trunc 28 | trimSuffix "-" -}}
{{- end }}

{{/* Of one model: root, model, its position, names, and the sections of values with what the model has of its own. */}}
{{- define "lg.parts" -}}
{{- $root := . -}}
{{- $parts := list -}}
{{- range $at, $model := .Values.models -}}
{{- $slug := $model.name | lower | replace "." "-" | replace "_" "-" -}}
{{- range $other := $parts }}{{ if eq $other.slug $slug }}{{ fail (printf "Two models are called %s here." $slug) }}{{ end }}{{ end -}}
{{- $part := dict "model" $model.name "isFirst" (eq $at 0) "slug" $slug "name" (printf "%s-%s" (include "lg.fullname" $root) $slug) -}}
{{- range $section := list "proxy" "encoder" "decoder" -}}
{{- $_ := set $part $section (mergeOverwrite (deepCopy (get $root.Values $section)) (deepCopy (default dict (get $model $section)))) -}}
{{- end -}}
{{- $parts = append $parts $part -}}
{{- end -}}
{{- toJson $parts -}}
{{- end }}

{{- define "lg.labels" -}}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{ include "lg.selector" . }}
{{- end }}

{{/* What selects pods: the release, and of a part its component and model. */}}
{{- define "lg.selector" -}}
app.kubernetes.io/name: labeling-ground
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .part }}
labeling-ground/model: {{ .slug }}
{{- end }}
{{- end }}

{{- define "lg.image" -}}
{{- $variant := default "" .variant -}}
{{ printf "%s/%s:%s%s" .root.Values.image.prefix .image (default .root.Chart.AppVersion .root.Values.image.tag) (ternary (printf "-%s" $variant) "" (ne $variant "")) | quote }}
{{- end }}

{{/* Variables of a container: what the chart sets, and the operator's in their place. */}}
{{- define "lg.env" -}}
{{- range $name, $value := mergeOverwrite .set .given }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{- define "lg.pod" -}}
automountServiceAccountToken: false
# Kubernetes would make variables of the services, some of which would look like settings of ours.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "lg.placement" -}}
terminationGracePeriodSeconds: {{ add .root.Values.drain.delayS .root.Values.drain.connectionsS .root.Values.drain.graceS 20 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "lg.selector" . | nindent 8 }}
{{- with .section.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .section.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .section.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "lg.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
