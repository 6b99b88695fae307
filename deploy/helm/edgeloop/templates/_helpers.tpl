{{- define "edgeloop.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of a part: (dict "part" "hub" "root" $) */}}
{{- define "edgeloop.selector" -}}
app.kubernetes.io/name: edgeloop
app.kubernetes.io/instance: {{ include "edgeloop.name" .root | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "edgeloop.labels" -}}
{{ include "edgeloop.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* What every container knows of the hub: what outranks hub.toml. */}}
{{- define "edgeloop.env" -}}
- name: EDGELOOP_HUB_HOST
  value: 0.0.0.0
- name: EDGELOOP_HUB_PORT
  value: "8080"
- name: EDGELOOP_HUB_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
- name: EDGELOOP_HUB_OBJECTS
  value: {{ .Values.objects.url | default "/var/lib/edgeloop-objects/objects" | quote }} # their lock lies beside them
{{- with .Values.advertiseUrl }}
- name: EDGELOOP_HUB_ADVERTISE_URL
  value: {{ . | quote }}
{{- end }}
{{- if ne .Values.broker.kind "hub" }}
- name: EDGELOOP_HUB_BROKER__KIND
  value: external
- name: EDGELOOP_HUB_BROKER__HOST
  value: {{ .Values.broker.host | default (printf "%s-mosquitto" (include "edgeloop.name" .)) | quote }}
- name: EDGELOOP_HUB_BROKER__PORT
  value: {{ .Values.broker.port | quote }}
{{- else }}
- name: EDGELOOP_HUB_BROKER__KIND
  value: mosquitto
- name: EDGELOOP_HUB_BROKER__PORT
  value: "8883"
{{- end }}
{{- with .Values.broker.advertiseHost }}
- name: EDGELOOP_HUB_BROKER__ADVERTISE_HOST
  value: {{ . | quote }}
{{- end }}
- name: EDGELOOP_HUB_WORKER__LOCAL
  value: "false"
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "edgeloop.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "edgeloop.confined" . }}
{{- end }}

{{- define "edgeloop.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  {{- include "edgeloop.env" . | nindent 2 }}
{{- with .Values.objects.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}

{{/* keys/ comes out of the Secret once, since the hub renews them in its volume; hub.toml each time. */}}
{{- define "edgeloop.fill" -}}
- name: directory
  image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -ceu]
  args:
    - |
      umask 077
      mkdir -p /var/lib/cloud-hub/keys
      for file in /secret/*; do
        name=${file##*/}
        to=/var/lib/cloud-hub/keys/$name
        [ "$name" != hub.toml ] || { to=/var/lib/cloud-hub/hub.toml && rm -f "$to"; }
        [ -e "$to" ] || { cp "$file" "$to.new" && mv "$to.new" "$to"; }
      done
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  resources:
    requests: { cpu: 10m, memory: 16Mi }
    limits: { memory: 64Mi }
  volumeMounts:
    - { name: directory, mountPath: /var/lib/cloud-hub }
    - { name: secret, mountPath: /secret, readOnly: true }
{{- end }}

{{- define "edgeloop.mounts" -}}
- { name: directory, mountPath: /var/lib/cloud-hub }
- { name: tmp, mountPath: /tmp }
{{- if .Values.objects.persistence.enabled }}
- { name: objects, mountPath: /var/lib/edgeloop-objects }
{{- end }}
{{- if .Values.recipes.existingConfigMap }}
- { name: recipes, mountPath: /var/lib/cloud-hub/recipes, readOnly: true }
{{- end }}
{{- end }}

{{- define "edgeloop.secret" -}}
- name: secret
  secret:
    secretName: {{ .Values.directory.existingSecret }}
    defaultMode: 0440
{{- end }}

{{- define "edgeloop.volumes" -}}
- name: tmp
  emptyDir: { sizeLimit: 2Gi }
{{- if .Values.objects.persistence.enabled }}
- name: objects
  persistentVolumeClaim:
    claimName: {{ .Values.objects.persistence.existingClaim | default (printf "%s-objects" (include "edgeloop.name" .)) }}
{{- end }}
{{- with .Values.recipes.existingConfigMap }}
- name: recipes
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}

{{/* What every pod has: (dict "part" .Values.hub "root" $) */}}
{{- define "edgeloop.pod" -}}
serviceAccountName: {{ .root.Values.serviceAccountName }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "edgeloop.probes" -}}
startupProbe: # the hub migrates its database before it listens
  httpGet: { path: /healthz, port: https, scheme: HTTPS }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /healthz, port: https, scheme: HTTPS }
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  httpGet: { path: /readyz, port: https, scheme: HTTPS }
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}
