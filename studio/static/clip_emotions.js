// A row for every clip, with a choice of the emotion that it shows. value: [[name, emotion or ""], ...]
const root = element.querySelector('.clip_emotions');
const words = props.words[navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'];
let known = '';
const row = ([name, emotion], index) => {
  const label = document.createElement('label'), text = document.createElement('span'), choice = document.createElement('select');
  text.textContent = name;
  for (const value of ['', ...props.emotions]) choice.add(new Option(words[value || 'clip_natural'], value));
  choice.value = emotion;
  choice.addEventListener('change', () => {
    props.value = props.value.map((pair, other) => (other === index ? [pair[0], choice.value] : pair));
    known = JSON.stringify(props.value);
    trigger('input');
  });
  label.append(text, choice);
  return label;
};
const draw = () => {
  const now = JSON.stringify(props.value);
  if (now === known) return;
  known = now;
  const title = document.createElement('h4');
  title.textContent = words.clip_emotions;
  root.replaceChildren(...(props.value.length ? [title, ...props.value.map(row)] : []));
};
draw();
watch('value', draw);
