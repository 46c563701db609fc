"""Chat templates of our own, in the manners that real models use."""

CHATML = (
    "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\\nYou tell tales.<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)

CHATML_THINKING = """\
{%- set ns = namespace(last=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' and '</think>' in text and loop.index0 < ns.last %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ text ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set talk = messages[1:] %}"
    "{% else %}{% set told = false %}{% set talk = messages %}{% endif %}"
    "{% for m in talk %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{% if loop.index0 == 0 and told %}{% set text = '<<SYS>>\\n' + told + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set text = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

LLAMA3 = (
    "{% for message in messages %}"
    "{% set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

LLAMA3_DATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{#- the system message stands first, with the date #}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set told = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n\\n" + told + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('role ' + message['role'] + ' is not known here') }}{% endif %}"
    "{% endfor %}"
)

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

TOOL_USE = "{{ bos_token }}{% for message in messages %}{{ message | tojson }}{{ '\\n' if not loop.last }}{% endfor %}"

MACROS = """\
{%- macro say(who, text, mark='|') -%}
<{{ mark }}{{ who | upper }}{{ mark }}>{{ text | replace('\\n', ' / ') }}
{%- endmacro -%}
{%- set ns = namespace(seen={}, turns=0) -%}
{%- for message in messages if message.role != 'note' -%}
    {%- if message.content is not string or not message.content.strip() -%}{%- continue -%}{%- endif -%}
    {%- set ns.turns = ns.turns + 1 -%}
    {%- if ns.turns > 3 -%}{%- break -%}{%- endif -%}
    {{- say(message.role, message.content.strip()) }}
{{ '' -}}
{%- endfor -%}
{{- (messages | map(attribute='role') | list) | join(',') }} {{ ns.turns }} {{ messages | selectattr('role', 'equalto', 'user') | list | length -}}
"""

STRINGS = (
    "{% for m in messages %}{% set c = m.content %}"
    "{{ c.split(',')|length }};{{ c.split(',', 1)[-1].strip() }};{{ c.upper() }};{{ c.lower().title() }};"
    "{{ c.startswith('Hi') }};{{ c.endswith('!') }};{{ c.replace(',', ';') }};{{ c.rstrip('!') }};{{ c[:2] ~ c[-1] ~ c[::-1][0] }};"
    "{{ c | length }};{{ 'there' in c }};{{ loop.index0 is even }};{{ c is defined and c is not none }};"
    "{{ {'text': c, 'n': [1, 2.5, true, none]} | tojson }};{{ m.get('name', 'nobody') }};"
    "{% for k, v in m.items() %}{{ k }}={{ v }}{% if not loop.last %}&{% endif %}{% endfor %}"
    "{% endfor %}"
)
