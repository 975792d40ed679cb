() => {
  document.addEventListener('keydown', (event) => {
    // Ctrl and Enter make the video from anywhere: with the Tab key the button is far from the sliders.
    const create = document.querySelector('#create');
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    if (create && create.offsetParent && !create.disabled) create.click();
  });

  // One stop of the Tab key a slider: its number is typed after a click.
  const quiet = () => {
    for (const number of document.querySelectorAll('input[data-testid=number-input]:not([tabindex])')) number.tabIndex = -1;
  };
  new MutationObserver(quiet).observe(document.body, { childList: true, subtree: true });
  quiet();

  // What is being made would be lost with the page.
  addEventListener('beforeunload', (event) => {
    if ([...document.querySelectorAll('#stop, #many-stop')].some((button) => button.offsetParent)) event.preventDefault();
  });

  // A server that has ended takes what it was making with it: without a word the page would wait for ever.
  const chinese = navigator.language.toLowerCase().startsWith('zh');
  const words = chinese
    ? ['工作室没有响应；正在等待它恢复。', '工作室已重新启动；正在生成的内容已丢失。', '重新打开页面']
    : [
        'The studio does not answer; waiting for it to come back.',
        'The studio was started anew; what it was making is lost.',
        'Open the page again',
      ];
  const banner = document.createElement('div');
  banner.id = 'studio-gone';
  banner.setAttribute('role', 'alert');
  banner.hidden = true;
  document.body.append(banner);
  // Of the server that went: gradio may open the page anew by itself, and it is to be told all the same.
  let first = sessionStorage.getItem('studio-gone');
  const say = (text, again) => {
    banner.replaceChildren(text);
    if (again) {
      const button = document.createElement('button');
      button.textContent = again;
      button.onclick = () => {
        sessionStorage.removeItem('studio-gone');
        location.reload();
      };
      banner.append(' ', button);
    }
    banner.hidden = !text;
  };
  const look = async () => {
    try {
      const answer = await fetch('gradio_api/app_id', { cache: 'no-store' });
      if (!answer.ok) return;
      const now = await answer.text();
      first ??= now;
      if (now === first) sessionStorage.removeItem('studio-gone');
      say(now === first ? '' : words[1], now === first ? '' : words[2]);
    } catch {
      if (first) sessionStorage.setItem('studio-gone', first);
      say(words[0], '');
    }
  };
  look();
  setInterval(look, 5000);
}
